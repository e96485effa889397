package catalog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"dstack/internal/backend"
	"dstack/internal/catalog/collect"
	"dstack/internal/catalog/pricelist"
	"dstack/internal/ledger"
	"dstack/internal/offer"
)

const (
	// pricesFor is how long collected prices are good for, hugeFor those that are gigabytes,
	// and spotFor those of spot instances where they have a list of their own.
	pricesFor = 24 * time.Hour
	hugeFor   = 7 * 24 * time.Hour
	spotFor   = time.Hour
	// spotValid is how old such spot prices may be while new ones cannot be had: they follow
	// demand, and may be a multiple a day later.
	spotValid = 6 * time.Hour
	// richerFor is how old a list may be that stays because a newer one has less.
	richerFor = 7 * 24 * time.Hour
	// pricesRetry spaces attempts to collect what could not be collected.
	pricesRetry = time.Hour
	// pricesAtOnce is how many providers are asked at a time, beside those whose lists are
	// gigabytes, which take hours. Each has its own deadline.
	pricesAtOnce = 4
	// pricesReport is how often it is said that a collection is still under way.
	pricesReport = time.Minute
)

// PricesConfig is what NewPrices needs.
type PricesConfig struct {
	Shelf     collect.Shelf     // the last good ones
	Transport http.RoundTripper // see [collect.Config]
	Env       func(string) string
	Log       *slog.Logger
}

// Prices are list prices, for backends whose providers do not tell an account what things
// cost: the embedded ones, and instead of them those that were collected since. Nothing is
// read, and no provider is asked, before a backend wants to know. It is safe for concurrent use.
type Prices struct {
	PricesConfig
	mu       sync.Mutex
	embedded *pricelist.List            // nil before the first question
	kept     map[string]*pricelist.List // what was collected, by source
	heard    map[string]time.Time       // when
	list     *pricelist.List            // the embedded one with what was collected
	due      map[string]time.Time       // by source that is wanted, zero for never
	asking   map[string]*asked          // sources that are being asked
	news     chan struct{}              // holds a token when due or asking has changed
	// secrets are what projects' backends are known by to their providers, see Use.
	secrets map[ledger.Account]map[string]backend.Secret
	first   map[string]string // by source: the project whose turn it is
}

// NewPrices checks c. It reads nothing yet.
func NewPrices(c PricesConfig) (*Prices, error) {
	if c.Shelf.Dir == "" || c.Transport == nil || c.Env == nil || c.Log == nil {
		return nil, errors.New("catalog: Shelf, Transport, Env and Log are required")
	}
	return &Prices{
		PricesConfig: c, due: map[string]time.Time{}, asking: map[string]*asked{}, news: make(chan struct{}, 1),
		secrets: map[ledger.Account]map[string]backend.Secret{}, first: map[string]string{},
	}, nil
}

// Offers are the list prices of a provider, cheapest first, of whatever age.
func (p *Prices) Offers(provider string, q offer.Query) ([]offer.Offer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.load(); err != nil {
		return nil, err
	}
	p.dropOld(time.Now())
	for _, s := range collect.Sources() {
		if _, wanted := p.due[s.Name()]; !wanted && s.Provider == provider {
			p.due[s.Name()] = p.expiry(s)
			p.tell()
		}
	}
	return p.list.Offers(provider, q), nil
}

// tell wakes Run.
func (p *Prices) tell() {
	select {
	case p.news <- struct{}{}:
	default: // it has yet to wake up
	}
}

// load reads the lists, once.
func (p *Prices) load() error {
	if p.list != nil {
		return nil
	}
	embedded, err := pricelist.Embedded()
	if err != nil {
		return err
	}
	kept, err := p.Shelf.Lists(time.Now())
	if err != nil {
		p.Log.Warn("some collected prices cannot be read", "err", err)
	}
	p.embedded, p.kept, p.heard = embedded, kept, map[string]time.Time{}
	for _, s := range collect.Sources() {
		if kept[s.Name()] != nil {
			p.heard[s.Name()] = p.Shelf.Kept(s)
		}
	}
	p.combine()
	return nil
}

// dropOld forgets spot prices that nothing should be bought at any more. It wants the mutex held.
func (p *Prices) dropOld(now time.Time) {
	for _, s := range collect.Sources() {
		if age := now.Sub(p.heard[s.Name()]); s.Spot && p.kept[s.Name()] != nil && age > spotValid {
			p.Log.Warn("spot prices are too old: spot instances are not offered until there are new ones", "prices_of", s.Name(), "age", age.Round(time.Minute), "limit", spotValid)
			delete(p.kept, s.Name())
			p.combine()
		}
	}
}

// newer is the date of the prices that are in use instead of those that were collected of a source,
// "" when these are in use, and the date of these. It wants the mutex held.
func (p *Prices) newer(s collect.Source) (used, collected string) {
	_, collected = p.kept[s.Name()].Dates()
	if s.Spot {
		_, used = p.list.SpotSize(s.Provider)
	} else {
		_, used = p.embedded.Size(s.Provider)
	}
	if used <= collected {
		return "", collected
	}
	return used, collected
}

func (p *Prices) combine() { p.list, _ = p.embedded.Replace(slices.Collect(maps.Values(p.kept))...) }

// expiry is when the prices of a source have to be collected again, zero for never.
func (p *Prices) expiry(s collect.Source) time.Time {
	published := p.Env(collect.CatalogsVariable) != ""
	if s.Pointless(published) || len(p.accesses(s)) == 0 {
		return time.Time{}
	}
	life := pricesFor
	switch {
	case s.Spot:
		life = spotFor
	case s.Huge && !published:
		life = hugeFor
	}
	newest := ""
	if l := p.kept[s.Name()]; l != nil {
		_, newest = l.Dates()
	}
	if !s.Spot {
		_, embedded := p.embedded.Size(s.Provider)
		newest = max(newest, embedded)
	}
	day, err := time.Parse("2006-01-02", newest)
	if err != nil {
		return time.Now() // of a month or a year, or none: old
	}
	return day.Add(life)
}

// Run collects the prices that backends want, when they have grown old, until ctx ends. One
// provider's silence delays no other's prices.
func (p *Prices) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		s, at, some := p.next()
		var timer <-chan time.Time
		if some {
			timer = time.After(time.Until(at))
		}
		select {
		case <-timer:
			p.begin(s)
			wg.Go(func() { p.refresh(ctx, s) })
		case <-p.news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// next is whose prices are due first of those for which there is room; some is false for nobody.
func (p *Prices) next() (next collect.Source, at time.Time, some bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	usual := 0
	for _, s := range collect.Sources() {
		if p.asking[s.Name()] != nil && !s.Huge {
			usual++
		}
	}
	for _, s := range collect.Sources() {
		due := p.due[s.Name()]
		if due.IsZero() || p.asking[s.Name()] != nil || !s.Huge && usual >= pricesAtOnce {
			continue
		}
		if !some || due.Before(at) {
			next, at, some = s, due, true
		}
	}
	return next, at, some
}

func (p *Prices) begin(s collect.Source) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asking[s.Name()] = &asked{}
}

// refresh collects the prices of one source. What fails is tried again later.
func (p *Prices) refresh(ctx context.Context, s collect.Source) {
	log := p.Log.With("prices_of", s.Name())
	log.Info("collecting list prices", "limit", s.Limit())
	began := time.Now()
	var received atomic.Int64
	stop := every(pricesReport, func() {
		log.Info("still collecting list prices", "since", time.Since(began).Round(time.Second), "received_bytes", received.Load())
	})
	c := collect.Config{Transport: p.Transport, Env: p.Env, Known: p.embedded, Catalogs: p.Env(collect.CatalogsVariable), Received: &received}
	found, err := p.collect(ctx, s, log, func(ctx context.Context, a access) (collect.Collection, error) {
		if c.Credentials = nil; a.project != "" {
			c.Credentials = a.env
		}
		return collect.Collect(ctx, c, s, time.Now())
	})
	stop()
	if err == nil {
		err = p.keep(s, found, began)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	defer p.tell()
	delete(p.asking, s.Name())
	switch {
	case errors.Is(err, errForgotten):
		p.due[s.Name()] = p.expiry(s)
		log.Info("the collection of list prices has ended with the credentials that it used")
		return
	case err != nil:
		p.due[s.Name()] = time.Now().Add(pricesRetry)
		if ctx.Err() == nil {
			log.Warn("present list prices could not be collected; those before stay", "err", err, "took", time.Since(began).Round(time.Second), "retry_in", pricesRetry)
		}
		return
	}
	p.kept[s.Name()], p.heard[s.Name()] = found.List, time.Now()
	p.combine()
	p.due[s.Name()] = later(p.expiry(s), time.Now().Add(pricesRetry))
	log.Info("list prices collected", "rows", found.List.Len(), "left_out", found.LeftOut.Len(), "free", found.Free, "took", time.Since(began).Round(time.Second))
	if found.NoAccount != nil {
		log.Warn("the list has only what anybody is told", "err", found.NoAccount)
	}
	if known, newest := p.newer(s); known != "" {
		log.Warn("the collected list prices are older than those that are known, which stay in use", "of", newest, "known_of", known)
	}
}

// keep puts what was collected on the shelf, unless what is there is from an account, has more, and is
// not too old.
func (p *Prices) keep(s collect.Source, found collect.Collection, now time.Time) error {
	p.mu.Lock()
	old, age := p.kept[s.Name()], now.Sub(p.heard[s.Name()])
	p.mu.Unlock()
	if found.NoAccount != nil && old != nil && age < richerFor && old.Len() > found.List.Len() {
		return fmt.Errorf("there would be %d rows, fewer than the %d before, as the account was not asked: %w", found.List.Len(), old.Len(), found.NoAccount)
	}
	return p.Shelf.Put(s, found.List, now)
}

// every calls f again and again after so long each, until the returned function is called.
func every(d time.Duration, f func()) (stop func()) {
	tick, done := time.NewTicker(d), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-tick.C:
				f()
			case <-done:
				return
			}
		}
	})
	return func() {
		tick.Stop()
		close(done)
		wg.Wait()
	}
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
