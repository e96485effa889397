package engine_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"dstack/internal/engine"
)

func rnd(seed int) *rand.Rand { return rand.New(rand.NewPCG(uint64(seed), 1)) }

// model is a reconciler that takes random time, fails at random, and checks the engine.
type model struct {
	t       *testing.T
	mu      sync.Mutex
	rnd     *rand.Rand
	running map[string]bool
	woken   map[string]time.Time
	seen    map[string]time.Time // begin of the last good pass
}

func (m *model) rand(n int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rnd.IntN(n)
}

func (m *model) reconcile(_ context.Context, it engine.Item) (time.Time, error) {
	began := time.Now()
	m.mu.Lock()
	if m.running[it.ID] {
		m.t.Errorf("two passes of %s at a time", it.ID)
	}
	m.running[it.ID] = true
	if len(m.running) > 3 {
		m.t.Errorf("%d passes at a time", len(m.running))
	}
	m.mu.Unlock()

	time.Sleep(time.Duration(m.rand(100)) * time.Millisecond)
	dice := m.rand(10)

	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.running, it.ID)
	switch dice {
	case 0:
		return time.Time{}, errors.New("bad luck")
	case 1:
		panic("worse luck")
	case 2:
		m.seen[it.ID] = began
		return time.Now().Add(time.Second), nil
	}
	m.seen[it.ID] = began
	return time.Time{}, nil
}
