// Package lambda is the backend of Lambda Cloud (lambda.ai): GPU machines by the hour.
//
// Lambda has no client tokens. A machine carries its intent in tags and in its name;
// Create looks for it first, and launches one after the other, so that a repeated request
// finds what the one before it made. Every launch names an SSH key of the account: the
// backend adds the project's key under a name that holds the server's id, and Tidy removes
// it when no machine has it.
//
// Test it with go test ./internal/backend/lambda: the conformance suite against a double
// whose every exchange is checked against Lambda's published API description.
package lambda

import (
	"cmp"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"dstack/internal/backend"
)

//go:embed lambda.md
var doc string

// Name is the backend's name in YAML and on the wire.
const Name = "lambda"

// Type is all that the rest of the program knows about Lambda.
var Type = backend.Define(Name, doc, open)

// username is who keys log in as on Lambda's images.
const username = "ubuntu"

func open(_ context.Context, c Config, d backend.Deps) (backend.Backend, error) {
	endpoint := d.Endpoint
	if endpoint == "" {
		endpoint = defaultEndpoint
	}
	l := &lambda{
		config:   c,
		api:      newClient(c, endpoint, d.Transport),
		launches: &turns{every: launchEvery},
		turn:     make(chan struct{}, 1),
	}
	l.turn <- struct{}{}
	return l, nil
}

// lambda is one account.
type lambda struct {
	config   Config
	api      *client
	launches *turns
	turn     chan struct{} // holds a token while nobody launches or tidies
}

// Account implements backend.AccountBackend. Lambda tells no id of an account.
func (l *lambda) Account() string {
	sum := sha256.Sum256([]byte(Name + " " + l.config.Creds.APIKey.Reveal()))
	return "key-" + hex.EncodeToString(sum[:8])
}

// Privileged implements backend.PrivilegedBackend.
func (l *lambda) Privileged() {}

// Create implements backend.Backend.
func (l *lambda) Create(ctx context.Context, req backend.CreateRequest) (backend.Instance, error) {
	body, err := launchOf(req)
	if err != nil {
		return backend.Instance{}, err
	}
	if err := until(ctx, time.Now().Add(l.launches.join(req))); err != nil {
		return backend.Instance{}, err
	}
	if err := l.launches.take(req); err != nil {
		return backend.Instance{}, err
	}
	launched := false
	defer func() { l.launches.giveBack(launched) }()
	if err := l.lock(ctx); err != nil {
		return backend.Instance{}, err
	}
	defer l.unlock()
	if made, err := l.made(ctx, req); err != nil || made != nil {
		return view(made), overtaken(err, requestEvery)
	}
	if body.Keys, err = l.ensureKey(ctx, req); err != nil {
		return backend.Instance{}, fmt.Errorf("provide the SSH key: %w", overtaken(err, requestEvery))
	}
	if err := until(ctx, l.launches.open()); err != nil {
		return backend.Instance{}, err
	}
	launched = true
	id, err := l.api.launch(ctx, body)
	err = overtaken(err, launchEvery)
	if errors.Is(err, backend.ErrNotFound) {
		err = l.missing(ctx, body, err)
	}
	if err != nil {
		return backend.Instance{}, fmt.Errorf("launch %s in %s: %w", body.Type, body.Region, err)
	}
	return backend.Instance{Ref: backend.Ref{Region: body.Region, ID: id}, State: backend.StatePending, Username: username}, nil
}

// overtaken makes of a refusal by Lambda's limit a wait for another turn, as often as it takes: it came
// too soon after a request of somebody else, another replica of this server, which has a queue of its
// own, or another user of the account, and says nothing about the offer. Where Lambda does not say for
// how long, a random time keeps those who met from meeting again. Where it says longer than turns take,
// it means something else.
func overtaken(err error, every time.Duration) error {
	limit, ok := errors.AsType[*backend.RateLimitedError](err)
	if !ok || limit.After > longestAway {
		return err
	}
	return &backend.RateLimitedError{After: cmp.Or(limit.After, every+rand.N(every)), Queued: true}
}

// Withdraw implements backend.QueueBackend.
func (l *lambda) Withdraw(token string) { l.launches.withdraw(token) }

// made finds the instance of an earlier attempt, nil when there is none. One that does not say whose it is
// holds up nobody: what it may hide is left to List, since the ledger asks again only for what was refused.
func (l *lambda) made(ctx context.Context, req backend.CreateRequest) (*instance, error) {
	all, err := l.api.instances(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for an earlier attempt: %w", err)
	}
	for _, i := range all {
		if i.ID != "" && i.mark().Of(req.Token, req.Name) {
			return &i, nil
		}
	}
	return nil, nil
}

// missing says what it means that a launch found its region, type or key missing: nothing
// was made. If it is the key, another server of this database tidied between our calls, and
// asking again helps.
func (l *lambda) missing(ctx context.Context, body launch, why error) error {
	keys, err := l.api.keys(ctx)
	if err == nil && !slices.ContainsFunc(keys, func(k sshKey) bool { return k.Name == body.Keys[0] }) {
		return &backend.RateLimitedError{After: launchEvery}
	}
	return &backend.InvalidError{Msg: why.Error()}
}

// Describe implements backend.Backend. Only the answer to the question about the one
// instance proves that it does not exist: the list may be behind.
func (l *lambda) Describe(ctx context.Context, ref backend.Ref) (backend.Instance, error) {
	all, err := l.api.instances(ctx)
	if err != nil {
		return backend.Instance{}, fmt.Errorf("instance %s: %w", ref.ID, err)
	}
	if at := slices.IndexFunc(all, func(i instance) bool { return i.ID == ref.ID }); at >= 0 {
		return in(ref.Region, view(&all[at])), nil
	}
	i, err := l.api.instance(ctx, ref.ID)
	if err != nil {
		return backend.Instance{}, fmt.Errorf("instance %s: %w", ref.ID, err)
	}
	return in(ref.Region, view(&i)), nil
}

// in says where an instance is that does not say so itself.
func in(region string, v backend.Instance) backend.Instance {
	v.Ref.Region = cmp.Or(v.Ref.Region, region)
	return v
}

// Terminate implements backend.Backend.
func (l *lambda) Terminate(ctx context.Context, ref backend.Ref) error {
	ended, err := l.api.terminate(ctx, ref.ID)
	if err != nil {
		return fmt.Errorf("instance %s: %w", ref.ID, err)
	}
	if !slices.ContainsFunc(ended, func(i instance) bool { return i.ID == ref.ID }) {
		return fmt.Errorf("instance %s: lambda took the request, but does not say that it ends it", ref.ID)
	}
	return nil
}

// List implements backend.Backend. Lambda lists all regions in one answer.
func (l *lambda) List(ctx context.Context, serverID string) ([]backend.Owned, error) {
	all, err := l.api.instances(ctx)
	if err != nil {
		return nil, err
	}
	if serverID == "" {
		return nil, nil
	}
	var owned []backend.Owned
	unread := &backend.UnreadError{}
	for _, i := range all {
		hidden, ours := i.hidden(serverID), i.tag(backend.TagServer) == serverID
		if what := i.strange(); hidden || ours && what != "" {
			unread.Rows = append(unread.Rows, fmt.Sprintf("instance %q: %s", i.ID, cmp.Or(what, "it does not say whose it is")))
			unread.Hidden = unread.Hidden || hidden
		}
		if hidden || !ours {
			continue
		}
		v := view(&i)
		owned = append(owned, backend.Owned{
			Mark: v.Mark, Kind: backend.InstanceResource, Ref: v.Ref, State: v.State, Price: v.Price,
		})
	}
	if len(unread.Rows) > 0 {
		slices.Sort(unread.Rows) // it is no news that they come in another order
		return owned, unread
	}
	return owned, nil
}

// view writes an instance in the terms of the contract; nil is the zero value.
func view(i *instance) backend.Instance {
	if i == nil {
		return backend.Instance{}
	}
	v := backend.Instance{
		Mark: i.mark(),
		Ref:  backend.Ref{Region: i.Region.Name, ID: i.ID}, Hostname: i.IP, InternalIP: i.PrivateIP,
		Username: username, Price: max(i.Type.Cents, 0) / 100,
	}
	v.State, v.Message = state(i.Status, i.IP != "")
	return v
}

// state is the one table of Lambda's statuses. One that we do not know proves neither life
// nor death.
func state(status string, addressed bool) (backend.State, string) {
	switch status {
	case "":
		return backend.StatePending, "lambda does not say how the instance is"
	case "booting":
		return backend.StatePending, ""
	case "active", "unhealthy": // unhealthy: Lambda's own checks fail; ours decide
		message := ""
		if status == "unhealthy" {
			message = "lambda says that the instance is unhealthy"
		}
		if !addressed {
			return backend.StatePending, message
		}
		return backend.StateRunning, message
	case "terminating":
		return backend.StateDeleting, ""
	case "terminated":
		return backend.StateGone, ""
	case "preempted": // will not come back, and is listed until it is terminated
		return backend.StateFailed, "lambda preempted the instance"
	}
	return backend.StatePending, fmt.Sprintf("lambda calls the instance %q", status)
}

// lock waits for the turn to launch or tidy.
func (l *lambda) lock(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	select {
	case <-l.turn:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *lambda) unlock() { l.turn <- struct{}{} }

var (
	_ backend.AccountBackend    = (*lambda)(nil)
	_ backend.QueueBackend      = (*lambda)(nil)
	_ backend.TidyBackend       = (*lambda)(nil)
	_ backend.PrivilegedBackend = (*lambda)(nil)
)
