// Package collect makes lists of prices from what providers publish: one file for each
// provider, with functions that read its answers and a few lines that ask for them. A list
// that is not what it must be is refused as a whole, so that the last good one stays, which
// [Shelf] keeps.
//
// Nothing here decides when to collect, and nothing is asked twice: the shared transport of
// backends repeats what failed on the way.
package collect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"dstack/internal/backend"
	"dstack/internal/catalog/pricelist"
)

// A Source is where the prices of one provider are.
type Source struct {
	Provider string // as lists of prices call it
	// Spot sources have the prices of spot instances alone; those on demand come from another.
	Spot bool
	// Needs are environment variables with credentials, nil where prices are public.
	Needs []string
	// Instead are variables each of which does in place of all those.
	Instead []string
	// May are environment variables with credentials that no list needs. With all of them a list has
	// what the provider tells accounts too: types and places that the program does not know.
	May []string
	// With are environment variables that go with those where they are set.
	With []string
	// PerAccount sources tell each account something else: what is free for it, what was agreed with it.
	PerAccount bool
	// Huge sources are gigabytes and take many minutes: they are for who asks for them by name.
	Huge bool

	base    string // of the URLs, without trailing slash
	baseEnv string // the provider's own variable for it
	limit   time.Duration
	expect  expectation
	most    answerSize // zero for the usual
	collect func(context.Context, *session, *tray) error
}

// Name names the source: its provider, or what of it.
func (s Source) Name() string {
	if s.Spot {
		return s.Provider + "-spot"
	}
	return s.Provider
}

// Limit is how long a collection may take.
func (s Source) Limit() time.Duration { return cmp.Or(s.limit, usualLimit) }

// Pointless says that there is nothing to ask: where published catalogs are taken instead, they
// have spot prices too.
func (s Source) Pointless(published bool) bool { return published && s.Spot }

// Sources lists where prices can be collected, by name.
func Sources() []Source {
	return []Source{
		amdDevCloud(), aws(), awsSpot(), azure(), cloudRift(), crusoe(), digitalOcean(), gcp(), hotAisle(), jarvisLabs(), lambdaCloud(), nebius(), oci(),
		runpod(), seeweb(), vastAI(), verda(), vultr(),
	}
}

// Missing are the credentials that the environment lacks, without which there is no list.
func (s Source) Missing(env func(string) string) []string {
	if slices.ContainsFunc(s.Instead, func(name string) bool { return env(name) != "" }) {
		return nil
	}
	return unset(s.Needs, env)
}

// Settings says which of the variables that a list needs to set: "A and B, or C".
func (s Source) Settings(needed []string) string {
	return strings.Join(append([]string{strings.Join(needed, " and ")}, s.Instead...), ", or ")
}

// Lacking are the credentials that the environment lacks, with which there would be more in the list.
func (s Source) Lacking(env func(string) string) []string { return unset(s.May, env) }

func unset(names []string, env func(string) string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return env(name) != "" })
}

// Config is what Collect needs.
type Config struct {
	Transport http.RoundTripper   // see [backend.NewTransport]
	Env       func(string) string // credentials, and DSTACK_ENDPOINT_<PROVIDER>
	// Credentials are taken instead of those of Env, all of them; optional.
	Credentials func(string) string
	Known       *pricelist.List // what instance types have, for price lists that do not say
	Catalogs    string          // optional: base URL of published catalogs to take instead
	Received    *atomic.Int64   // optional: counts the bytes of answers as they come
	// Dial makes the connections of providers that do not speak HTTP, optional: in tests.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// CatalogsVariable is the environment variable of [Config.Catalogs], as for the original's
// library.
const CatalogsVariable = "GPUHUNT_CATALOG_URL"

// A Collection is what a source gave.
type Collection struct {
	List *pricelist.List
	// LeftOut are accelerators and types that nobody here knows, whose rows are not in the list.
	LeftOut LeftOut
	// Free counts rows of known types without a price: what is billed otherwise, or not sold.
	Free int
	// NoAccount is why the list has only what anybody is told, though all of [Source.May] is set;
	// nil otherwise.
	NoAccount error
}

const (
	// usualLimit bounds a collection: the largest of the usual ones is some hundred pages.
	usualLimit = 15 * time.Minute
	// answerLimit bounds one answer.
	answerLimit = 30 * time.Second
	// stallLimit bounds the time in which nothing comes of an answer that takes longer.
	stallLimit = time.Minute
	// accountLimit bounds what a list can do without: the questions that only accounts may ask.
	accountLimit = 5 * time.Minute
)

// Collect asks a provider for its prices, which are then of the day of now. An error leaves
// everything as it was.
func Collect(ctx context.Context, c Config, s Source, now time.Time) (Collection, error) {
	if c.Catalogs != "" {
		if s.Spot {
			return Collection{}, fmt.Errorf("collect the prices of %s: published catalogs have them under %s", s.Name(), s.Provider)
		}
		s = published(s, c.Catalogs)
	}
	if c.Received == nil {
		c.Received = new(atomic.Int64)
	}
	if c.Credentials == nil {
		c.Credentials = c.Env
	}
	if names := s.Missing(c.Credentials); len(names) > 0 {
		return Collection{}, fmt.Errorf("collect the prices of %s: set %s", s.Name(), s.Settings(names))
	}
	endpoint := ""
	if c.Catalogs == "" {
		var err error
		if endpoint, err = (backend.Type{Name: s.Provider, EndpointEnv: s.baseEnv}).Endpoint(c.Env); err != nil {
			return Collection{}, err
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.Limit(), fmt.Errorf("it took longer than %v", s.Limit()))
	defer cancel()
	t := &tray{provider: s.Provider, asOf: now.UTC().Format("2006-01-02")}
	asked := s.session(c, endpoint, now)
	err := s.collect(ctx, asked, t)
	if err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return Collection{}, fmt.Errorf("collect the prices of %s: %w", s.Name(), asked.secrets.hushed(err))
	}
	found := Collection{List: t.list.List(), LeftOut: t.leftOut(), Free: t.free, NoAccount: asked.secrets.hushed(t.noAccount)}
	if got := found.List.Backends(); len(got) > 1 || len(got) == 1 && got[0] != s.Provider {
		return Collection{}, fmt.Errorf("collect the prices of %s: they are of %s", s.Name(), strings.Join(got, ", "))
	}
	if err := s.expect.check(found.List); err != nil {
		if len(s.Needs) > 0 && len(s.May) == 0 { // all of the list is what the account is told
			err = fmt.Errorf("%w: the list was cut off, or the account is told less than others", err)
		}
		return Collection{}, fmt.Errorf("collect the prices of %s: %w", s.Name(), err)
	}
	return found, nil
}

// ErrOtherCredentials says that a variable has credentials of a kind that is of no use here, though
// other programs may know it.
var ErrOtherCredentials = errors.New("no list can be asked for with these credentials")

// errStrange means that an answer is not what its provider documents.
var errStrange = errors.New("the answer is not what the provider documents")
