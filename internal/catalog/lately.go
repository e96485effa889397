package catalog

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"dstack/internal/ledger"
	"dstack/internal/offer"
)

// Lately is what a project has learnt of offers beside what backends list: what could not be had, and
// what turned out dearer. Nil is nothing. It is a new one whenever something is otherwise.
type Lately struct{ by map[offer.Key]lesson }

// lesson is what was learnt of one offer.
type lesson struct {
	penalty float64   // for failures
	refused time.Time // the last of them
	dears   dears
}

// Keys are the offers of which something was learnt, in no order.
func (l *Lately) Keys() []offer.Key {
	if l == nil {
		return nil
	}
	return slices.Collect(maps.Keys(l.by))
}

// Of is what an offer costs that is listed for so much, in US dollars per hour, and its penalty: offers
// are ordered by their price times one plus it.
func (l *Lately) Of(k offer.Key, listed float64) (price, penalty float64) {
	if l == nil {
		return listed, 0
	}
	one := l.by[k]
	price, unlike := one.dears.price(listed)
	return price, min(maxPenalty, one.penalty+unlike)
}

// Refused says that an offer could not be had, and when that was last known.
func (l *Lately) Refused(k offer.Key) (last time.Time, refused bool) {
	if l == nil {
		return time.Time{}, false
	}
	one := l.by[k]
	return one.refused, one.penalty > 0
}

// lessons are what a project has learnt, and from what.
type lessons struct {
	dearer   memory[ledger.Dearer]
	mu       sync.Mutex
	at       time.Time
	failures []ledger.Failure
	dearers  []ledger.Dearer
	last     *Lately
}

// lately is what a project has learnt, as of some seconds ago.
func (c *Catalog) lately(ctx context.Context, projectID string) *Lately {
	c.mu.Lock()
	l := c.lessons[projectID]
	if l == nil {
		l = &lessons{}
		c.lessons[projectID] = l
	}
	c.mu.Unlock()
	failures, dearers := c.failures(ctx), []ledger.Dearer(nil)
	if c.Dearers != nil {
		dearers = l.dearer.of(ctx, c.Log, func(since time.Time) ([]ledger.Dearer, error) { return c.Dearers(ctx, projectID, since) })
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	at := time.Now().Truncate(penaltyStep)
	if l.at.Equal(at) && same(l.failures, failures) && same(l.dearers, dearers) {
		return l.last
	}
	l.at, l.failures, l.dearers, l.last = at, failures, dearers, nil
	by, last := map[offer.Key]lesson{}, refusals(at, failures, projectID)
	for k, penalty := range penalties(at, failures, projectID) {
		by[k] = lesson{penalty: penalty, refused: last[k]}
	}
	for k, dears := range dearOnes(at, dearers) {
		one := by[k]
		one.dears = dears
		by[k] = one
	}
	if len(by) > 0 {
		l.last = &Lately{by}
	}
	return l.last
}

// same says that two lists are one.
func same[T any](a, b []T) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }
