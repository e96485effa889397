package engine

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"runtime/debug"
	"time"

	"dstack/internal/store"
)

const (
	minBackoff = 250 * time.Millisecond
	maxBackoff = 2 * time.Minute
	// freeConflicts is how many lost races in a row are repeated at once and not called a failure.
	freeConflicts = 5
)

var errPassTimeout = errors.New("pass took too long")

// pass runs one reconciler once. It is the only place that logs a failed pass.
func (e *Engine) pass(ctx context.Context, k *Kind, en *entry) verdict {
	fence := e.shards.fence(Shard(en.id))
	log := e.Log.With("kind", k.Name, "id", en.id)
	if fence.Epoch == 0 {
		e.wakes.add(k.Name, en.id) // it may have been woken here just before the shard went
		return verdict{drop: true}
	}
	began := time.Now()
	again, err := e.reconcile(ctx, k, Item{ID: en.id, Fence: fence, Attempt: en.attempt + 1})
	attempt := en.attempt + 1
	switch {
	case err == nil:
		log.Debug("pass", "dur", time.Since(began), "again", again)
		return verdict{again: again}
	case errors.Is(err, ErrFenced), context.Cause(ctx) == ErrFenced:
		log.Info("pass fenced", "shard", fence.Shard, "epoch", fence.Epoch)
		e.shards.lose(fence)
		e.wakes.add(k.Name, en.id)
		return verdict{drop: true}
	case errors.Is(err, store.ErrConflict) && attempt <= freeConflicts:
		log.Debug("pass conflicted", "attempt", attempt)
		return verdict{again: time.Now().Add(apart(time.Duration(attempt)*2*time.Millisecond, en.id, attempt)), err: err}
	case ctx.Err() != nil:
		log.Info("pass interrupted", "err", err)
		return verdict{err: err, drop: true}
	}
	delay := backoff(en.id, attempt)
	if errors.Is(err, store.ErrConflict) {
		delay = backoff(en.id, attempt-freeConflicts)
	}
	log.Warn("pass failed", "err", err, "attempt", attempt, "retry_in", delay)
	return verdict{again: time.Now().Add(delay), err: err}
}

// reconcile contains the panics of a reconciler: one bad object must not stop the others.
func (e *Engine) reconcile(ctx context.Context, k *Kind, it Item) (again time.Time, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, k.Timeout, errPassTimeout)
	defer cancel()
	defer func() {
		if r := recover(); r != nil {
			e.Log.Error("pass panicked", "kind", k.Name, "id", it.ID, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			err = fmt.Errorf("pass panicked: %v", r)
		}
	}()
	again, err = k.Reconcile(ctx, it)
	if err != nil && context.Cause(ctx) == errPassTimeout {
		err = fmt.Errorf("%w (%s): %w", errPassTimeout, k.Timeout, err)
	}
	return again, err
}

// backoff is the delay after the n-th failure in a row of an object, doubled each time, with
// jitter of a quarter to both sides so that what failed together does not come back together.
func backoff(id string, n int) time.Duration {
	d := maxBackoff
	if n < 10 {
		d = min(minBackoff<<(n-1), maxBackoff)
	}
	return d*3/4 + apart(d/2, id, n)
}

// apart is a time below d that follows from an object's id and a number. It moves objects
// apart as a random one would, and is the same when a world is simulated again.
func apart(d time.Duration, id string, n int) time.Duration {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%s %d", id, n) // a hash takes everything
	return time.Duration(h.Sum64() % uint64(d))
}
