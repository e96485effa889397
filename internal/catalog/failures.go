package catalog

import (
	"context"
	"math"
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
		age := max(0, now.Sub(f.At))
		if age > remembered || f.ProjectID != projectID && f.Outcome != ledger.NoCapacity {
			continue
		}
		k := offer.Key{Backend: f.Backend, Region: f.Region, Instance: f.Instance, Spot: f.Spot}
		sum[k] = min(maxPenalty, sum[k]+math.Exp2(-float64(age)/float64(halving)))
	}
	return sum
}

// memory is what the ledger last said about failures. The ledger keeps them, so that they
// survive the server, and other replicas hear of them.
type memory struct {
	mu       sync.Mutex
	failures []ledger.Failure
	at       time.Time
}

// failed lists the failures that still count, as they were moments ago.
func (c *Catalog) failed(ctx context.Context) []ledger.Failure {
	if c.Failures == nil {
		return nil
	}
	c.memory.mu.Lock()
	defer c.memory.mu.Unlock()
	now := time.Now()
	if now.Sub(c.memory.at) < reread {
		return c.memory.failures
	}
	failures, err := c.Failures(ctx, now.Add(-remembered))
	if err != nil {
		if ctx.Err() == nil {
			c.Log.Warn("what could not be had lately is not known", "err", err)
		}
		return c.memory.failures
	}
	c.memory.failures, c.memory.at = failures, now
	return failures
}
