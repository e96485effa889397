package catalog

import (
	"context"
	"errors"
	"slices"
	"time"

	"dstack/internal/backend"
	"dstack/internal/ledger"
	"dstack/internal/offer"
)

const (
	// freshRoom is how long what a reservation has left counts as known: less than offers, since
	// each instance that somebody creates in it takes a part.
	freshRoom = 20 * time.Second
	// forgotten is after how long without anybody asking a reservation is not known any more.
	forgotten = 10 * time.Minute
	// maxReservations bounds those that are known: names are the users'.
	maxReservations = 256
	// maxParts bounds what one reservation may have, far above any.
	maxParts = 10_000
)

// fresh is how long an answer about the subject is young enough.
func (s subject) fresh() time.Duration {
	if s.reservation != "" {
		return freshRoom
	}
	return fresh
}

// offersOf are the offers of accounts, as what to ask about.
func offersOf(accounts []ledger.Account) []subject {
	list := make([]subject, len(accounts))
	for i, a := range accounts {
		list[i] = subject{Account: a}
	}
	return list
}

// reservationsOf are the reservations of those names at the backends that have any.
func (c *Catalog) reservationsOf(ctx context.Context, accounts []ledger.Account, names []string) []subject {
	if len(names) == 0 {
		return nil
	}
	var list []subject
	for _, a := range accounts {
		b, err := c.Clouds.Backend(ctx, a.ProjectID, a.Backend)
		if err != nil {
			continue // its offers cannot be asked for either, which is said
		}
		if _, ok := b.(backend.ReservationBackend); ok {
			for _, name := range names {
				list = append(list, subject{a, name})
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(list)
	return list
}

// forget drops what nobody asked about lately and, to make room for others, what was asked about
// longest ago. It wants the mutex held.
func (c *Catalog) forget(wanted []subject) {
	now := time.Now()
	var old []subject
	for s, k := range c.known {
		switch {
		case s.reservation == "" || k.asking || slices.Contains(wanted, s):
		case now.Sub(k.wanted) > forgotten:
			delete(c.known, s)
		default:
			old = append(old, s)
		}
	}
	slices.SortFunc(old, func(a, b subject) int { return c.known[a].wanted.Compare(c.known[b].wanted) })
	for _, s := range old[:max(0, min(len(old), len(old)+len(wanted)-maxReservations))] {
		delete(c.known, s)
	}
}

// askReservation has one backend say what a reservation has.
func (c *Catalog) askReservation(ctx context.Context, s subject) ([]offer.Reserved, error) {
	b, err := c.Clouds.Backend(ctx, s.ProjectID, s.Backend)
	if err != nil {
		return nil, err
	}
	r, ok := b.(backend.ReservationBackend)
	if !ok {
		return nil, nil // the backend of that name is another now
	}
	parts, err := r.Reservation(ctx, s.reservation)
	if err == nil && len(parts) > maxParts {
		return nil, errors.New("a reservation of more parts than any has")
	}
	return parts, err
}

func equalParts(a, b offer.Reserved) bool {
	return a.Region == b.Region && a.Zone == b.Zone && a.Instance == b.Instance && a.Left == b.Left && (a.GPUs == nil) == (b.GPUs == nil) && slices.Equal(a.GPUs, b.GPUs)
}

// reserve adds to the offers of a backend what room a reservation has for them.
func reserve(all []offer.Offer, s subject, parts []offer.Reserved) {
	if len(parts) == 0 {
		return
	}
	type kind struct{ region, instance string }
	by := map[kind][]offer.Reserved{}
	for _, p := range parts {
		k := kind{p.Region, p.Instance}
		by[k] = append(by[k], p)
	}
	for i := range all {
		o := &all[i]
		if o.Backend != s.Backend {
			continue
		}
		for _, p := range by[kind{o.Region, o.Instance}] {
			if p.Holds(*o) {
				o.Rooms = append(slices.Clip(o.Rooms), offer.Room{Reservation: s.reservation, Zone: p.Zone, Left: max(0, p.Left)})
			}
		}
	}
}
