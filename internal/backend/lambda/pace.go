package lambda

import (
	"context"
	"sync"
	"time"

	"dstack/internal/backend"
)

// pace keeps calls a fixed time apart, as the provider's limits ask. It is safe for
// concurrent use; callers get their turns in the order of asking.
type pace struct {
	every time.Duration
	mu    sync.Mutex
	next  time.Time // the first free turn
}

// take reserves the next turn and says when it is. When it is further away than patience,
// nothing is reserved and a *backend.RateLimitedError says how far.
func (p *pace) take(patience time.Duration) (time.Time, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	at := p.next
	if at.Before(now) {
		at = now
	}
	if d := at.Sub(now); d > patience {
		return at, &backend.RateLimitedError{After: d, Queued: true}
	}
	p.next = at.Add(p.every)
	return at, nil
}

// wait waits for the next turn.
func (p *pace) wait(ctx context.Context, patience time.Duration) error {
	at, err := p.take(patience)
	if err != nil {
		return err
	}
	return until(ctx, at)
}

// until waits for a time.
func until(ctx context.Context, at time.Time) error {
	if d := time.Until(at); d > 0 {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
	return context.Cause(ctx)
}
