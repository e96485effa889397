// Package catalog holds what the configured backends offer, so that nobody waits for
// clouds: each backend's last answer is kept and refreshed in the background. And it has list
// prices, for backends whose providers do not tell an account what things cost.
//
// Test it with go test ./internal/catalog.
package catalog

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"dstack/internal/backend"
	"dstack/internal/ledger"
	"dstack/internal/offer"
)

// Clouds knows the configured backends.
type Clouds interface {
	Backend(ctx context.Context, projectID, name string) (backend.Backend, error)
	Accounts(ctx context.Context) ([]ledger.Account, error)
}

const (
	fresh    = time.Minute     // an answer this young is not asked for again
	deadline = 2 * time.Minute // for one backend's answer
	// coldWait and firstWait are how long after the first question a backend's answer is
	// waited for: by somebody in front of a screen, and by what decides for good. One that
	// takes longer is missing until it has answered, and Changed tells. Lambda takes more than
	// a second: it lets nobody ask two questions in one.
	coldWait  = 3 * time.Second
	firstWait = 10 * time.Second
)

// Config is what New needs; fields are required unless marked optional.
type Config struct {
	Clouds Clouds
	Log    *slog.Logger
	// Changed is called when what a project's backends offer is not what it was; optional.
	Changed func(projectID string)
	// Failures lists what could not be had since a time; optional.
	Failures func(ctx context.Context, since time.Time) ([]ledger.Failure, error)
}

// Catalog answers queries from memory. It is safe for concurrent use.
type Catalog struct {
	Config
	memory memory
	mu     sync.Mutex
	known  map[ledger.Account]*answer
	ctx    context.Context // of refreshes; ends with Run
	end    context.CancelFunc
	wg     sync.WaitGroup
}

// answer is what one backend last said.
type answer struct {
	offers []offer.Offer
	begun  time.Time     // when it was first asked
	asked  time.Time     // the last attempt's begin
	at     time.Time     // the last attempt's end, zero before the first
	heard  time.Time     // when offers came, zero before
	err    error         // of the last attempt
	asking bool          // a refresh is under way
	first  chan struct{} // closed with the first attempt's end
}

// New checks c and returns an empty Catalog. Backends are asked when somebody wants to know.
func New(c Config) (*Catalog, error) {
	if c.Clouds == nil || c.Log == nil {
		return nil, errors.New("catalog: Clouds and Log are required")
	}
	if c.Changed == nil {
		c.Changed = func(string) {}
	}
	ctx, end := context.WithCancel(context.Background())
	return &Catalog{Config: c, known: map[ledger.Account]*answer{}, ctx: ctx, end: end}, nil
}

// Close ends the refreshes that are under way and waits for them.
func (c *Catalog) Close() {
	c.mu.Lock()
	c.end()
	c.mu.Unlock()
	c.wg.Wait()
}

// Offers lists what the project's backends offer, as they last said, and what could not be had
// lately with a penalty. Old answers are
// refreshed in the background; only a backend that was never asked is waited for, and not
// for long. One that fails contributes its last answer.
func (c *Catalog) Offers(ctx context.Context, projectID string) ([]offer.Offer, error) {
	accounts, err := c.accountsOf(ctx, projectID)
	if err != nil {
		return nil, err
	}
	if err := c.await(ctx, accounts, coldWait); err != nil {
		return nil, err
	}
	lower := penalties(time.Now(), c.failed(ctx), projectID)
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []offer.Offer
	for _, a := range accounts {
		if k := c.known[a]; k != nil {
			all = append(all, k.offers...)
		}
	}
	if len(lower) > 0 {
		for i := range all {
			all[i].Penalty = lower[all[i].Key()]
		}
	}
	return all, nil
}

// Settle waits for backends of the project that have not answered yet, longer than Offers.
func (c *Catalog) Settle(ctx context.Context, projectID string) error {
	accounts, err := c.accountsOf(ctx, projectID)
	if err != nil {
		return err
	}
	return c.await(ctx, accounts, firstWait)
}

// await refreshes old answers and waits for first ones, until limit after the question.
func (c *Catalog) await(ctx context.Context, accounts []ledger.Account, limit time.Duration) error {
	for _, k := range c.refreshStale(accounts) {
		timer := time.NewTimer(time.Until(k.begun.Add(limit)))
		select {
		case <-k.first:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		timer.Stop()
	}
	return nil
}

func (c *Catalog) accountsOf(ctx context.Context, projectID string) ([]ledger.Account, error) {
	accounts, err := c.Clouds.Accounts(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(accounts), func(a ledger.Account) bool { return a.ProjectID != projectID }), nil
}

// refreshStale begins to ask the backends whose answers are old, and returns those that have
// not answered yet.
func (c *Catalog) refreshStale(accounts []ledger.Account) []*answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	var unheard []*answer
	for _, a := range accounts {
		k := c.known[a]
		if k == nil {
			k = &answer{begun: time.Now(), first: make(chan struct{})}
			c.known[a] = k
		}
		if !k.asking && time.Since(k.at) > fresh && c.ctx.Err() == nil {
			k.asking, k.asked = true, time.Now()
			c.wg.Go(func() { c.refresh(a, k) })
		}
		if k.at.IsZero() && k.asking {
			unheard = append(unheard, k)
		}
	}
	return unheard
}

// refresh asks one backend. The work is nobody's in particular: the first caller to give up
// must not fail it for the others.
func (c *Catalog) refresh(a ledger.Account, k *answer) {
	ctx, cancel := context.WithTimeoutCause(c.ctx, deadline, errSilent)
	defer cancel()
	offers, err := c.ask(ctx, a)
	if err != nil && c.ctx.Err() == nil {
		c.Log.Warn("a backend does not say what it offers", "backend", a.Backend, "err", err)
	}
	c.mu.Lock()
	changed := err == nil && !same(k.offers, offers)
	if err == nil {
		k.offers, k.heard = offers, time.Now()
	}
	if k.at.IsZero() {
		close(k.first)
	}
	k.at, k.asking, k.err = time.Now(), false, err
	c.mu.Unlock()
	if changed {
		c.Changed(a.ProjectID)
	}
}

// errSilent is why a question to a backend ends.
var errSilent = errors.New("no answer in time")

// ask has one backend list its offers, and adds what its kind of backend can do with them.
func (c *Catalog) ask(ctx context.Context, a ledger.Account) ([]offer.Offer, error) {
	b, err := c.Clouds.Backend(ctx, a.ProjectID, a.Backend)
	if err != nil {
		return nil, err
	}
	offers, err := b.Offers(ctx, offer.Query{})
	if err != nil {
		return nil, err
	}
	_, reserves := b.(backend.ReservationBackend)
	_, multinode := b.(backend.MultinodeBackend)
	offers = slices.Clone(offers)
	for i := range offers {
		offers[i].Reserves, offers[i].Multinode = reserves, multinode
	}
	return offers, nil
}

// same compares what is looked at when jobs are placed.
func same(a, b []offer.Offer) bool {
	return slices.EqualFunc(a, b, func(x, y offer.Offer) bool {
		return x.Key() == y.Key() && x.Price == y.Price && x.Availability == y.Availability
	})
}

// Backends is how many backends a project has, whether they answer or not.
func (c *Catalog) Backends(ctx context.Context, projectID string) (int, error) {
	accounts, err := c.accountsOf(ctx, projectID)
	return len(accounts), err
}
