// Package enginetest helps tests that run an engine.
package enginetest

import (
	"context"
	"errors"
	"sync"
	"testing"

	"dstack/internal/engine"
)

// Start runs e until the test ends and fails the test when Run does.
func Start(t testing.TB, e *engine.Engine) {
	t.Helper()
	stop := StartStoppable(t, e)
	t.Cleanup(stop)
}

// StartStoppable runs e until the returned function is called, which waits for the end.
func StartStoppable(t testing.TB, e *engine.Engine) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := e.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("engine: %v", err)
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// Bus is an [engine.Bus] in memory. A test in a synctest bubble needs one on Postgres: a
// connection that listens is never durably blocked, so it would stop virtual time. The zero
// value is ready to use.
type Bus struct {
	mu        sync.Mutex
	listeners map[int]chan string
	next      int
	muted     bool
	refuses   bool
	cut       chan struct{} // closed to end the listening
}

var errCut = errors.New("connection reset by peer")

// Cut ends all listening, as a connection does that breaks.
func (b *Bus) Cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cut != nil {
		close(b.cut)
		b.cut = nil
	}
}

// Refuse takes no messages from now on, or takes them again.
func (b *Bus) Refuse(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refuses = on
}

// Mute loses the messages from now on, or stops losing them.
func (b *Bus) Mute(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.muted = on
}

// Notify implements [engine.Bus].
func (b *Bus) Notify(ctx context.Context, msg string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuses {
		return errCut
	}
	if b.muted {
		return nil
	}
	for _, c := range b.listeners {
		select {
		case c <- msg:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Listen implements [engine.Bus].
func (b *Bus) Listen(ctx context.Context, ready func(), fn func(msg string)) error {
	c := make(chan string, 1024)
	b.mu.Lock()
	if b.listeners == nil {
		b.listeners = map[int]chan string{}
	}
	id := b.next
	b.next++
	b.listeners[id] = c
	if b.cut == nil {
		b.cut = make(chan struct{})
	}
	cut := b.cut
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		delete(b.listeners, id)
		b.mu.Unlock()
	}()
	ready()
	for {
		select {
		case msg := <-c:
			fn(msg)
		case <-cut:
			return errCut
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
