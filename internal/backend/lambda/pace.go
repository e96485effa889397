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
	ended time.Time // when the last call that says so ended
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
		return at, &backend.RateLimitedError{After: d}
	}
	p.next = at.Add(p.every)
	return at, nil
}

// giveBack returns a turn that was not used. If others were reserved since, it is lost.
func (p *pace) giveBack(at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next.Equal(at.Add(p.every)) {
		p.next = at
	}
}

// done says that the call of a turn ended just now: it may have been sent later than its
// turn was, and the next one keeps its distance from that.
func (p *pace) done() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = time.Now()
	if next := p.ended.Add(p.every); next.After(p.next) {
		p.next = next
	}
}

// until waits for a turn that was taken.
func (p *pace) until(ctx context.Context, at time.Time) error {
	p.mu.Lock()
	if next := p.ended.Add(p.every); next.After(at) {
		at = next
	}
	p.mu.Unlock()
	return until(ctx, at)
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
