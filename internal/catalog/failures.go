package catalog

import (
	"context"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"dstack/internal/ledger"
	"dstack/internal/offer"
)

// An offer that could not be had lately has a lower place: each failure counts as one, half as
// much after every halving, and offers are ordered by their price times one plus that. So what
// failed just now comes behind what costs up to twice as much, and an hour later behind what
// costs up to a sixteenth more. It is never left out: when nothing else fits, it is tried.
const (
	halving = 15 * time.Minute
	// remembered is when a failure is forgotten: it counts for less than half a percent.
	remembered = 8 * halving
	// maxPenalty bounds what many failures at once add up to.
	maxPenalty = 8
	// reread spaces the questions to the ledger.
	reread = 2 * time.Second
)

// penalties are what is added to offers for the failures of a project. A lack of capacity is
// the cloud's: it counts whoever met with it. Quotas, credentials and limits are the account's.
func penalties(now time.Time, failures []ledger.Failure, projectID string) map[offer.Key]float64 {
	sum := map[offer.Key]float64{}
	for _, f := range failures {
		if counts(f, now, projectID) {
			sum[keyOf(f)] = min(maxPenalty, sum[keyOf(f)]+decayed(now.Sub(f.At)))
		}
	}
	return sum
}

// refusals are when each offer could not be had last, for a project.
func refusals(now time.Time, failures []ledger.Failure, projectID string) map[offer.Key]time.Time {
	last := map[offer.Key]time.Time{}
	for _, f := range failures {
		if k := keyOf(f); counts(f, now, projectID) && f.Until.After(last[k]) {
			last[k] = f.Until
		}
	}
	return last
}

// counts says that a failure means something to a project.
func counts(f ledger.Failure, now time.Time, projectID string) bool {
	return now.Sub(f.At) <= remembered && (f.ProjectID == projectID || f.Outcome == ledger.NoCapacity)
}

func keyOf(f ledger.Failure) offer.Key {
	return offer.Key{Backend: f.Backend, Region: f.Region, Instance: f.Instance, Spot: f.Spot}
}

// decayed is what one failure counts for.
func decayed(age time.Duration) float64 { return math.Exp2(-float64(max(0, age)) / float64(halving)) }

// memory is what the ledger last said about something. The ledger keeps it, so that it survives the
// server, and other replicas hear of it.
type memory[T comparable] struct {
	mu   sync.Mutex
	list []T
	at   time.Time
}

// of is what still counts, as it was moments ago: the very list for as long as it is the same.
func (m *memory[T]) of(ctx context.Context, log *slog.Logger, ask func(since time.Time) ([]T, error)) []T {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if now.Sub(m.at) < reread {
		return m.list
	}
	list, err := ask(now.Add(-remembered))
	if err != nil {
		if ctx.Err() == nil {
			log.Warn("what could not be had lately is not known", "err", err)
		}
		return m.list
	}
	if m.at = now; !slices.Equal(m.list, list) {
		m.list = list
	}
	return m.list
}

// failures lists what could not be had.
func (c *Catalog) failures(ctx context.Context) []ledger.Failure {
	if c.Failures == nil {
		return nil
	}
	return c.failed.of(ctx, c.Log, func(since time.Time) ([]ledger.Failure, error) { return c.Failures(ctx, since) })
}
