package catalog

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"dstack/internal/catalog/collect"
	"dstack/internal/catalog/pricelist"
	"dstack/internal/offer"
)

const (
	// pricesFor is how long collected prices are good for, and hugeFor those that are
	// gigabytes.
	pricesFor = 24 * time.Hour
	hugeFor   = 7 * 24 * time.Hour
	// pricesRetry spaces attempts to collect what could not be collected.
	pricesRetry = time.Hour
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
	embedded *pricelist.List // nil before the first question
	list     *pricelist.List // with what was collected
	due      map[string]time.Time
	news     chan struct{} // holds a token when due has changed
}

// NewPrices checks c. It reads nothing yet.
func NewPrices(c PricesConfig) (*Prices, error) {
	if c.Shelf.Dir == "" || c.Transport == nil || c.Env == nil || c.Log == nil {
		return nil, errors.New("catalog: Shelf, Transport, Env and Log are required")
	}
	return &Prices{PricesConfig: c, due: map[string]time.Time{}, news: make(chan struct{}, 1)}, nil
}

// Offers are the list prices of a provider, cheapest first, of whatever age.
func (p *Prices) Offers(provider string, q offer.Query) ([]offer.Offer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.load(); err != nil {
		return nil, err
	}
	if _, wanted := p.due[provider]; !wanted {
		p.due[provider] = p.expiry(provider)
		select {
		case p.news <- struct{}{}:
		default: // there is one already
		}
	}
	return p.list.Offers(provider, q), nil
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
	kept, err := p.Shelf.Lists()
	if err != nil {
		p.Log.Warn("some collected prices cannot be read", "err", err)
	}
	p.embedded = embedded
	p.list, _ = embedded.Replace(slices.Collect(maps.Values(kept))...)
	return nil
}

// expiry is when the prices of a provider have to be collected again, zero for never.
func (p *Prices) expiry(provider string) time.Time {
	i := slices.IndexFunc(collect.Sources(), func(s collect.Source) bool { return s.Provider == provider })
	if i < 0 {
		return time.Time{}
	}
	s := collect.Sources()[i]
	published := p.Env(collect.CatalogsVariable) != ""
	if !published && (s.OnlyPublished || len(s.Missing(p.Env)) > 0) {
		return time.Time{}
	}
	life := pricesFor
	if s.Huge && !published {
		life = hugeFor
	}
	_, newest := p.list.Size(provider)
	day, err := time.Parse("2006-01-02", newest)
	if err != nil {
		return time.Now() // of a month or a year: old
	}
	return day.Add(life)
}

// Run collects the prices that backends want, when they have grown old, until ctx ends.
func (p *Prices) Run(ctx context.Context) error {
	for {
		provider, at := p.next()
		var timer <-chan time.Time
		if provider != "" {
			timer = time.After(time.Until(at))
		}
		select {
		case <-timer:
			p.refresh(ctx, provider)
		case <-p.news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// next is whose prices are due first, "" for nobody's.
func (p *Prices) next() (provider string, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, due := range p.due {
		if !due.IsZero() && (provider == "" || due.Before(at)) {
			provider, at = name, due
		}
	}
	return provider, at
}

// refresh collects the prices of one provider. What fails is tried again later.
func (p *Prices) refresh(ctx context.Context, provider string) {
	i := slices.IndexFunc(collect.Sources(), func(s collect.Source) bool { return s.Provider == provider })
	c := collect.Config{Transport: p.Transport, Env: p.Env, Known: p.embedded, Catalogs: p.Env(collect.CatalogsVariable)}
	found, err := collect.Collect(ctx, c, collect.Sources()[i], time.Now())
	if err == nil {
		err = p.Shelf.Put(provider, found.List)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.due[provider] = time.Now().Add(pricesRetry)
		if ctx.Err() == nil {
			p.Log.Warn("present list prices could not be collected; those before stay", "backend", provider, "err", err, "retry_in", pricesRetry)
		}
		return
	}
	p.list, _ = p.list.Replace(found.List)
	p.due[provider] = later(p.expiry(provider), time.Now().Add(pricesRetry))
	p.Log.Info("list prices collected", "backend", provider, "rows", found.List.Len(), "left_out", len(found.LeftOut))
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
