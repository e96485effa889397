// Package catalog holds what the configured backends offer, so that nobody waits for
// clouds: each backend's last answer is kept and refreshed in the background. And it has list
// prices, for backends whose providers do not tell an account what things cost.
//
// Test it with go test ./internal/catalog.
package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"dstack/internal/backend"
	"dstack/internal/catalog/pricelist"
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
	valid    = 2 * fresh       // an older answer is shown with its age, but nothing is bought on it
	again    = 5 * time.Second // a failure older than this is asked about again
	deadline = 2 * time.Minute // for one backend's answer
	// coldWait and firstWait are how long after the question the answer of a backend without a
	// valid one is waited for: by somebody in front of a screen, and by what decides for good.
	// One that takes longer is missing until it has answered, and Changed tells. Lambda takes
	// more than a second: it lets nobody ask two questions in one.
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
	// Dearers lists what cost a project more than was allowed, since a time; optional.
	Dearers func(ctx context.Context, projectID string, since time.Time) ([]ledger.Dearer, error)
}

// Catalog answers queries from memory. It is safe for concurrent use.
type Catalog struct {
	Config
	failed  memory[ledger.Failure]
	mu      sync.Mutex
	lessons map[string]*lessons // by project
	known   map[subject]*answer
	markets map[string]market // by what for, project and reservations
	ctx     context.Context   // of refreshes; ends with Run
	end     context.CancelFunc
	wg      sync.WaitGroup
}

// subject is what a backend is asked about: its offers or, with a name, a reservation.
type subject struct {
	ledger.Account
	reservation string
}

// answer is what one backend last said of a subject.
type answer struct {
	offers []offer.Offer
	parts  []offer.Reserved // of a reservation
	wanted time.Time        // when somebody last wanted to know
	absurd int              // how many more there were that no provider can mean
	asked  time.Time        // the last attempt's begin
	at     time.Time        // the last attempt's end, zero before the first
	heard  time.Time        // when offers came, zero before
	since  time.Time        // when they first were what they are
	err    error            // of the last attempt
	failed time.Time        // the begin of the first of the failures in a row, zero without one
	asking bool             // a refresh is under way
	// expected says that somebody will go on when it has ended.
	expected bool
	done     chan struct{} // closed with the last attempt's end
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
	return &Catalog{Config: c, known: map[subject]*answer{}, lessons: map[string]*lessons{}, markets: map[string]market{}, ctx: ctx, end: end}, nil
}

// Close ends the refreshes that are under way and waits for them.
func (c *Catalog) Close() {
	c.mu.Lock()
	c.end()
	c.mu.Unlock()
	c.wg.Wait()
}

// Pending is until when, at the latest, offers that are missing yet are known or given up, by backend;
// those that nobody awaits are not in it.
type Pending map[string]time.Time

// Until is the latest time of some backends, zero for none.
func (p Pending) Until(of func(backend string) bool) (last time.Time) {
	for name, at := range p {
		if of(name) && at.After(last) {
			last = at
		}
	}
	return last
}

func (p Pending) add(backend string, at time.Time) {
	if at.After(time.Now()) && at.After(p[backend]) {
		p[backend] = at
	}
}

// Listing is what a project's backends offer. Nobody changes it.
type Listing struct {
	Offers []offer.Offer // the very list for as long as they say the same
	Lately *Lately       // what counts otherwise than it is listed
}

// Offers lists what the project's backends offer, as they last said, for somebody to look at. Old answers are refreshed in the background;
// only a backend without a valid answer is waited for, and not for long, and none of which from says
// that it is of no use; nil waits for all. One that does not answer contributes its last answer,
// however old: see [Catalog.Problems].
//
// Offers say what room the reservations that are named have for them.
func (c *Catalog) Offers(ctx context.Context, projectID string, from func(backend string) bool, reservations ...string) (Listing, error) {
	return c.offers(ctx, projectID, reservations, wait{old: coldWait, from: from}, toShow, func(string, *answer) bool { return true })
}

// Purchasable lists the offers that something may be bought on: those of valid answers. A
// backend without one is waited for longer than by Offers, and one whose answer is not fresh as
// long as by it, so that a price which was raised is known. A backend that fails is asked again by
// who asks until what is pending is over.
func (c *Catalog) Purchasable(ctx context.Context, projectID string, from func(backend string) bool, reservations ...string) (offers Listing, pending Pending, err error) {
	pending = Pending{}
	w := buying()
	w.from = from
	offers, err = c.offers(ctx, projectID, reservations, w, toBuy, func(backend string, k *answer) bool {
		now := time.Now()
		pending.add(backend, k.hopedFor(now))
		return k.valid(now)
	})
	return offers, pending, err
}

// What a list of offers is for: both are one while all answers are valid.
const (
	toShow = "to show "
	toBuy  = "to buy "
)

// offers lists the offers of the answers that count, after it waited for them.
func (c *Catalog) offers(ctx context.Context, projectID string, reservations []string, w wait, purpose string, counts func(backend string, k *answer) bool) (Listing, error) {
	accounts, err := c.accountsOf(ctx, projectID)
	if err != nil {
		return Listing{}, err
	}
	subjects := append(offersOf(accounts), c.reservationsOf(ctx, accounts, reservations)...)
	if err := c.await(ctx, subjects, w); err != nil {
		return Listing{}, err
	}
	lately := c.lately(ctx, projectID)
	c.mu.Lock()
	defer c.mu.Unlock()
	var told []subject
	var said []byte
	for _, a := range subjects {
		if k := c.known[a]; k != nil && counts(a.Backend, k) && !k.since.IsZero() { // else it has said nothing yet
			told = append(told, a)
			said = fmt.Appendf(said, " %v %d", a, k.since.UnixNano())
		}
	}
	name := fmt.Sprintf("%s %q", projectID, reservations)
	for _, purpose := range []string{toShow, toBuy} {
		if m := c.markets[purpose+name]; m.said == string(said) {
			return Listing{m.offers, lately}, nil
		}
	}
	var all []offer.Offer
	for _, a := range told {
		if a.reservation == "" {
			all = append(all, c.known[a].offers...)
		} else {
			reserve(all, a, c.known[a].parts)
		}
	}
	c.markets[purpose+name] = market{string(said), all}
	Shrink(c.markets, purpose+name, maxMarketOffers, func(m market) int { return len(m.offers) })
	return Listing{all, lately}, nil
}

const (
	// penaltyStep is how finely time counts for penalties: what was learnt stays the same in between.
	penaltyStep = 10 * time.Second
	// maxMarketOffers bounds the offers in the lists that are remembered: one may have a hundred thousand.
	maxMarketOffers = 1_600_000
)

// market is what a project's backends offer, and what they said that made it so.
type market struct {
	said   string
	offers []offer.Offer
}

// Settled asks the backends that [Catalog.Purchasable] would wait for, and says until when it would.
// Changed is called when one of them has answered, whatever it says.
func (c *Catalog) Settled(ctx context.Context, projectID string, reservations ...string) (Pending, error) {
	accounts, err := c.accountsOf(ctx, projectID)
	if err != nil {
		return nil, err
	}
	pending := Pending{}
	for _, q := range c.refreshStale(append(offersOf(accounts), c.reservationsOf(ctx, accounts, reservations)...), fresh, true) {
		pending.add(q.backend, q.asked.Add(buying().of(q)))
	}
	return pending, nil
}

// wait is how long after the question answers are waited for: where there is no valid one, and
// where the valid one is not fresh, which is one younger than young; and whose answers, nil for all.
type wait struct {
	old, aged, young time.Duration
	from             func(backend string) bool
}

// buying is how long what decides for good waits.
func buying() wait { return wait{old: firstWait, aged: coldWait} }

func (w wait) of(q question) time.Duration {
	if q.old {
		return w.old
	}
	return w.aged
}

// await refreshes old answers and waits for them.
func (c *Catalog) await(ctx context.Context, about []subject, w wait) error {
	for _, q := range c.refreshStale(about, cmp.Or(w.young, fresh), false) {
		if w.from != nil && !w.from(q.backend) {
			continue
		}
		timer := time.NewTimer(time.Until(q.asked.Add(w.of(q))))
		select {
		case <-q.done:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		timer.Stop()
	}
	return nil
}

// valid says that something may be bought on the answer.
func (k *answer) valid(now time.Time) bool { return !k.heard.IsZero() && now.Sub(k.heard) <= valid }

// awaited says that an answer which is missing is on its way. One that did not come in time
// the last time is not waited for: a backend that hangs must not hold up others for ever.
func (k *answer) awaited(now time.Time) bool { return k.asking && !k.valid(now) && !silent(k.err) }

// hopedFor is until when an answer that is missing may come, zero when none will: one that is on its
// way until its deadline, and one of a backend that fails for as long from the first failure.
func (k *answer) hopedFor(now time.Time) time.Time {
	switch {
	case k.awaited(now):
		return k.asked.Add(deadline)
	case k.valid(now) || k.err == nil || silent(k.err) || errors.Is(k.err, backend.ErrAuth):
		return time.Time{}
	}
	return k.failed.Add(deadline)
}

// due says that the backend should be asked: soon after a failure, which may be mended, unless it
// asked for patience.
func (k *answer) due(now time.Time, rest time.Duration) bool {
	if _, limited := errors.AsType[*backend.RateLimitedError](k.err); k.err != nil && !limited && !silent(k.err) {
		rest = again
	}
	return !k.asking && now.Sub(k.at) > rest
}

func (c *Catalog) accountsOf(ctx context.Context, projectID string) ([]ledger.Account, error) {
	accounts, err := c.Clouds.Accounts(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(accounts), func(a ledger.Account) bool { return a.ProjectID != projectID }), nil
}

// question is one that a backend has not answered yet.
type question struct {
	backend string
	asked   time.Time
	done    chan struct{}
	old     bool // there is no valid answer to an earlier one
}

// refreshStale begins to ask the backends whose answers are old, and returns the questions that
// are worth waiting for. No answer older than young is fresh. expected has Changed called when they
// are answered.
func (c *Catalog) refreshStale(about []subject, young time.Duration, expected bool) []question {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	var open []question
	for _, a := range about {
		k := c.known[a]
		if k == nil {
			k = &answer{}
			c.known[a] = k
		}
		k.wanted = now
		if k.due(now, min(a.fresh(), young)) && c.ctx.Err() == nil {
			k.asking, k.asked, k.done = true, now, make(chan struct{})
			c.wg.Go(func() { c.refresh(a, k) })
		}
		if k.asking && !silent(k.err) {
			k.expected = k.expected || expected
			open = append(open, question{a.Backend, k.asked, k.done, !k.valid(now)})
		}
	}
	return open
}

// refresh asks one backend. The work is nobody's in particular: the first caller to give up
// must not fail it for the others.
func (c *Catalog) refresh(a subject, k *answer) {
	ctx, cancel := context.WithTimeoutCause(c.ctx, deadline, errSilent)
	defer cancel()
	var offers []offer.Offer
	var parts []offer.Reserved
	var absurd absurdities
	var err error
	if a.reservation == "" {
		offers, absurd, err = c.ask(ctx, a.Account)
	} else {
		parts, err = c.askReservation(ctx, a)
	}
	c.mu.Lock()
	// An answer that was waited for is told of even when it is the same, or none.
	changed := k.expected || k.awaited(time.Now()) || err == nil && !(alike(k.offers, offers) && slices.EqualFunc(k.parts, parts, equalParts))
	news := err != nil && c.ctx.Err() == nil && (k.err == nil || k.err.Error() != err.Error())
	strange := err == nil && absurd.n > 0 && absurd.n != k.absurd
	if err == nil {
		k.absurd, k.heard = absurd.n, time.Now()
		if k.since.IsZero() || !slices.EqualFunc(k.offers, offers, identical) || !slices.EqualFunc(k.parts, parts, equalParts) { // else lists that were made of them stay
			k.offers, k.parts, k.since = offers, parts, k.heard
		}
	}
	switch {
	case err == nil:
		k.failed = time.Time{}
	case k.failed.IsZero() || k.asked.Sub(k.at) > valid: // how it was in a pause is not known
		k.failed = k.asked
	}
	close(k.done)
	k.at, k.asking, k.expected, k.err = time.Now(), false, false, err
	c.mu.Unlock()
	if news {
		c.Log.Warn("a backend does not say what it offers", "backend", a.Backend, "reservation", a.reservation, "err", err)
	}
	if strange {
		c.Log.Warn("a backend has offers that nobody can mean; they are left out", "backend", a.Backend, "offers", absurd.n, "first", absurd.first)
	}
	if changed {
		c.Changed(a.ProjectID)
	}
}

// errSilent is why a question to a backend ends.
var errSilent = errors.New("no answer in time")

// silent says that a backend did not answer in time.
func silent(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errSilent)
}

// absurdities are offers that were left out.
type absurdities struct {
	n     int
	first error // what is wrong with the first
}

// ask has one backend list its offers, leaves out those that nobody can mean, and adds what its
// kind of backend can do with them.
func (c *Catalog) ask(ctx context.Context, a ledger.Account) ([]offer.Offer, absurdities, error) {
	var out absurdities
	b, err := c.Clouds.Backend(ctx, a.ProjectID, a.Backend)
	if err != nil {
		return nil, out, err
	}
	listed, err := b.Offers(ctx, offer.Query{})
	if err != nil {
		return nil, out, err
	}
	_, multinode := b.(backend.MultinodeBackend)
	_, ranked := b.(backend.RankedBackend)
	order := 0
	offers := make([]offer.Offer, 0, len(listed))
	for _, o := range listed {
		if err := pricelist.CheckLive(o); err != nil {
			if out.n++; out.n == 1 {
				out.first = err
			}
			continue
		}
		o.Multinode = multinode
		if ranked {
			order++
			o.Order = order
		}
		offers = append(offers, o)
	}
	return offers, out, nil
}

// alike compares what is looked at when jobs are placed.
func alike(a, b []offer.Offer) bool {
	return slices.EqualFunc(a, b, func(x, y offer.Offer) bool {
		return x.Key() == y.Key() && x.Price == y.Price && x.Availability == y.Availability
	})
}

// identical compares all of two offers.
func identical(a, b offer.Offer) bool {
	x, y := a.Resources, b.Resources
	if !slices.Equal(x.GPUs, y.GPUs) || !slices.Equal(a.Zones, b.Zones) || (a.Zones == nil) != (b.Zones == nil) {
		return false
	}
	if len(a.Data)+len(b.Data) > 0 && !reflect.DeepEqual(a.Data, b.Data) {
		return false
	}
	return a.Key() == b.Key() && a.Price == b.Price && a.Availability == b.Availability && a.Runtime == b.Runtime && a.Multinode == b.Multinode && a.Order == b.Order &&
		x.CPUs == y.CPUs && x.MemoryMiB == y.MemoryMiB && x.DiskMiB == y.DiskMiB && x.Arch == y.Arch
}

// Backends is how many backends a project has, whether they answer or not.
func (c *Catalog) Backends(ctx context.Context, projectID string) (int, error) {
	accounts, err := c.accountsOf(ctx, projectID)
	return len(accounts), err
}
