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
	"context"
	"crypto/sha1"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
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

// launchPatience is how long a launch waits for its turn before the caller is told to come
// back: ten launches.
const launchPatience = 2 * time.Minute

func open(_ context.Context, c Config, d backend.Deps) (backend.Backend, error) {
	endpoint := d.Endpoint
	if endpoint == "" {
		endpoint = defaultEndpoint
	}
	l := &lambda{
		config:   c,
		api:      newClient(c, endpoint, d.Transport),
		launches: &pace{every: launchEvery},
		turn:     make(chan struct{}, 1),
	}
	l.turn <- struct{}{}
	return l, nil
}

// lambda is one account.
type lambda struct {
	config   Config
	api      *client
	launches *pace
	turn     chan struct{} // holds a token while nobody launches or tidies
}

// Privileged implements backend.PrivilegedBackend.
func (l *lambda) Privileged() {}

// Create implements backend.Backend.
func (l *lambda) Create(ctx context.Context, req backend.CreateRequest) (backend.Instance, error) {
	body, err := launchOf(req)
	if err != nil {
		return backend.Instance{}, err
	}
	at, err := l.launches.take(launchPatience)
	if err != nil {
		return backend.Instance{}, err
	}
	launched := false
	defer func() {
		if !launched {
			l.launches.giveBack(at)
		}
	}()
	if err := l.lock(ctx); err != nil {
		return backend.Instance{}, err
	}
	defer l.unlock()
	if made, err := l.made(ctx, req); err != nil || made != nil {
		return view(made), err
	}
	if body.Keys, err = l.ensureKey(ctx, req); err != nil {
		return backend.Instance{}, fmt.Errorf("provide the SSH key: %w", err)
	}
	if err := l.launches.until(ctx, at); err != nil {
		return backend.Instance{}, err
	}
	launched = true
	id, err := l.api.launch(ctx, body)
	l.launches.done()
	if errors.Is(err, backend.ErrNotFound) {
		err = l.missing(ctx, body, err)
	}
	if err != nil {
		return backend.Instance{}, fmt.Errorf("launch %s in %s: %w", body.Type, body.Region, err)
	}
	return backend.Instance{Ref: backend.Ref{Region: body.Region, ID: id}, State: backend.StatePending, Username: username}, nil
}

// made finds the instance of an earlier attempt, nil when there is none.
func (l *lambda) made(ctx context.Context, req backend.CreateRequest) (*instance, error) {
	all, err := l.api.instances(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for an earlier attempt: %w", err)
	}
	for _, i := range all {
		if intent := i.tag(backend.TagIntent); intent == req.Token || intent == "" && i.Name == req.Name {
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

// Limits of Lambda's (API description 1.10.0).
const (
	maxUserData = 1 << 20 // bytes
	maxName     = 64
	maxTagKey   = 55
	maxTagValue = 128
)

var tagPattern = regexp.MustCompile(`^[a-z][a-z0-9-:]+$`)

// launchOf checks a request and writes it in Lambda's terms, without the key.
func launchOf(req backend.CreateRequest) (launch, error) {
	switch {
	case req.Token == "" || req.Name == "":
		return launch{}, &backend.InvalidError{Path: "name", Msg: "token and name are required"}
	case len(req.Name) > maxName:
		return launch{}, &backend.InvalidError{Path: "name", Msg: fmt.Sprintf("is longer than %d characters", maxName)}
	case req.Offer.Resources.Spot:
		return launch{}, &backend.InvalidError{Path: "offer", Msg: "lambda has no spot instances"}
	case len(req.SSHKeys) == 0:
		return launch{}, &backend.InvalidError{Path: "ssh_keys", Msg: "lambda launches nothing without an SSH key"}
	case len(req.Volumes) > 0:
		return launch{}, &backend.InvalidError{Path: "volumes", Msg: "lambda has no volumes"}
	}
	data := userData(req)
	if len(data) > maxUserData {
		return launch{}, &backend.InvalidError{Path: "user_data", Msg: fmt.Sprintf("is larger than the %d bytes that lambda takes", maxUserData)}
	}
	return launch{
		Region: req.Offer.Region, Type: req.Offer.Instance, Name: req.Name, UserData: data, Tags: tags(req.Tags),
	}, nil
}

// tags leaves out what Lambda would refuse: a user's tag is no reason not to get a machine.
func tags(wanted map[string]string) []tag {
	all := []tag{}
	for k, v := range wanted {
		if len(k) <= maxTagKey && len(v) <= maxTagValue && tagPattern.MatchString(k) {
			all = append(all, tag{k, v})
		}
	}
	slices.SortFunc(all, func(a, b tag) int { return strings.Compare(a.Key, b.Key) })
	return all
}

// Describe implements backend.Backend. Only the answer to the question about the one
// instance proves that it does not exist: the list may be behind.
func (l *lambda) Describe(ctx context.Context, ref backend.Ref) (backend.Instance, error) {
	all, err := l.api.instances(ctx)
	if err != nil {
		return backend.Instance{}, fmt.Errorf("instance %s: %w", ref.ID, err)
	}
	if at := slices.IndexFunc(all, func(i instance) bool { return i.ID == ref.ID }); at >= 0 {
		return view(&all[at]), nil
	}
	i, err := l.api.instance(ctx, ref.ID)
	if err != nil {
		return backend.Instance{}, fmt.Errorf("instance %s: %w", ref.ID, err)
	}
	return view(&i), nil
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
	var owned []backend.Owned
	for _, i := range all {
		if serverID == "" || i.tag(backend.TagServer) != serverID {
			continue
		}
		v := view(&i)
		owned = append(owned, backend.Owned{
			Kind: backend.InstanceResource, Ref: v.Ref, IntentID: i.tag(backend.TagIntent), Name: i.Name, State: v.State, Price: v.Price,
		})
	}
	return owned, nil
}

// view writes an instance in the terms of the contract; nil is the zero value.
func view(i *instance) backend.Instance {
	if i == nil {
		return backend.Instance{}
	}
	v := backend.Instance{
		Ref: backend.Ref{Region: i.Region.Name, ID: i.ID}, Hostname: i.IP, InternalIP: i.PrivateIP,
		Username: username, Price: float64(max(i.Type.Cents, 0)) / 100,
	}
	v.State, v.Message = state(i.Status, i.IP != "")
	return v
}

// state is the one table of Lambda's statuses. One that we do not know proves neither life
// nor death.
func state(status string, addressed bool) (backend.State, string) {
	switch status {
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

// keyPrefix begins the names of the keys that a server adds.
func keyPrefix(serverID string) string { return "dstack-" + serverID + "-" }

// keyName is at most 64 characters, since a server's id is a UUID.
func keyName(serverID, public string) string {
	sum := sha1.Sum([]byte(public))
	return keyPrefix(serverID) + hex.EncodeToString(sum[12:])
}

// ensureKey makes sure that the account has the first key of the request, the project's,
// and returns its name as a launch wants it. The others are in the user data.
func (l *lambda) ensureKey(ctx context.Context, req backend.CreateRequest) ([]string, error) {
	public := strings.TrimSpace(req.SSHKeys[0])
	keys, err := l.api.keys(ctx)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if sameKey(k.Public, public) { // also one that somebody else added: accounts need no second
			return []string{k.Name}, nil
		}
	}
	name := keyName(req.Tags[backend.TagServer], public)
	return []string{name}, l.api.addKey(ctx, name, public)
}

// sameKey compares public keys without their comments.
func sameKey(a, b string) bool {
	x, y := strings.Fields(a), strings.Fields(b)
	return len(x) > 1 && len(y) > 1 && x[0] == y[0] && x[1] == y[1]
}

// Tidy implements backend.TidyBackend: it deletes the keys of this server that no instance
// of the account was launched with.
func (l *lambda) Tidy(ctx context.Context, serverID string) error {
	if serverID == "" {
		return nil
	}
	if err := l.lock(ctx); err != nil {
		return err
	}
	defer l.unlock()
	keys, err := l.api.keys(ctx)
	if err != nil {
		return err
	}
	keys = slices.DeleteFunc(keys, func(k sshKey) bool { return !strings.HasPrefix(k.Name, keyPrefix(serverID)) })
	if len(keys) == 0 {
		return nil
	}
	all, err := l.api.instances(ctx)
	if err != nil {
		return err
	}
	var failed []error
	for _, k := range keys {
		used := func(i instance) bool { return slices.Contains(i.Keys, k.Name) }
		if k.ID == "" || slices.ContainsFunc(all, used) {
			continue
		}
		err := l.api.deleteKey(ctx, k.ID)
		if e, ok := errors.AsType[*apiError](err); ok && e.Status == http.StatusNotFound {
			err = nil // another server of this database was faster
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("delete SSH key %s: %w", k.Name, err))
		}
	}
	return errors.Join(failed...)
}

var (
	_ backend.TidyBackend       = (*lambda)(nil)
	_ backend.PrivilegedBackend = (*lambda)(nil)
)
