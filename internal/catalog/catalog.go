// Package catalog holds what the configured backends offer, so that plans do not wait for
// clouds: each backend's last answer is kept and refreshed with a deadline.
package catalog

import (
	"context"
	"log/slog"
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
	fresh    = time.Minute      // an answer this young is not asked for again
	deadline = 10 * time.Second // for one backend's answer
)

// Catalog answers queries from memory. It is safe for concurrent use.
type Catalog struct {
	clouds Clouds
	log    *slog.Logger
	mu     sync.Mutex
	known  map[ledger.Account]answer
}

type answer struct {
	offers []offer.Offer
	at     time.Time
	err    error
}

// New returns a Catalog over the backends.
func New(clouds Clouds, log *slog.Logger) *Catalog {
	return &Catalog{clouds: clouds, log: log, known: map[ledger.Account]answer{}}
}

// Offers lists what the project's backends offer. A backend that fails contributes its
// last answer.
func (c *Catalog) Offers(ctx context.Context, projectID string) ([]offer.Offer, error) {
	accounts, err := c.clouds.Accounts(ctx)
	if err != nil {
		return nil, err
	}
	var wg sync.WaitGroup
	for _, a := range accounts {
		if a.ProjectID == projectID && c.stale(a) {
			wg.Go(func() { c.refresh(ctx, a) })
		}
	}
	wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []offer.Offer
	for _, a := range accounts {
		if a.ProjectID == projectID {
			all = append(all, c.known[a].offers...)
		}
	}
	return all, nil
}

// Multinode are the project's backends whose instances of one region reach each other.
func (c *Catalog) Multinode(ctx context.Context, projectID string) (map[string]bool, error) {
	accounts, err := c.clouds.Accounts(ctx)
	if err != nil {
		return nil, err
	}
	can := map[string]bool{}
	for _, a := range accounts {
		if a.ProjectID != projectID {
			continue
		}
		b, err := c.clouds.Backend(ctx, projectID, a.Backend)
		if err != nil {
			continue // it has no offers either
		}
		_, can[a.Backend] = b.(backend.MultinodeBackend)
	}
	return can, nil
}

func (c *Catalog) stale(a ledger.Account) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.known[a].at) > fresh
}

func (c *Catalog) refresh(ctx context.Context, a ledger.Account) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	b, err := c.clouds.Backend(ctx, a.ProjectID, a.Backend)
	var offers []offer.Offer
	if err == nil {
		offers, err = b.Offers(ctx, offer.Query{})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.known[a]
	if err != nil {
		c.log.Warn("a backend does not say what it offers", "backend", a.Backend, "err", err)
		offers = last.offers
	}
	c.known[a] = answer{offers: offers, at: time.Now(), err: err}
}
