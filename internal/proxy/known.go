package proxy

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"dstack/internal/run"
)

const (
	// knownFor is how old what is known of a service may be. News come at once; this is for
	// those that get lost on the way from another replica of the server.
	knownFor = 5 * time.Second
	// findTimeout bounds a look into the database for all who wait for it.
	findTimeout = 10 * time.Second
	// maxKnown bounds what is remembered.
	maxKnown = 10_000
)

// served is a service with whose turn it is.
type served struct {
	run.Served
	turn atomic.Uint32
	at   time.Time
}

// routes remember the services that were asked for lately. The zero value is ready to use.
type routes struct {
	mu     sync.Mutex
	byName map[[2]string]*served
	news   uint64 // counts what was forgotten
	flight singleflight.Group
}

type find func(ctx context.Context, project, name string) (run.Served, error)

func (k *routes) find(ctx context.Context, project, name string, find find) (*served, error) {
	key := [2]string{project, name}
	k.mu.Lock()
	s, news := k.byName[key], k.news
	k.mu.Unlock()
	if s != nil && time.Since(s.at) < knownFor {
		return s, nil
	}
	done := k.flight.DoChan(project+"\x00"+name, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), findTimeout)
		defer cancel()
		now := &served{at: time.Now()}
		var err error
		if now.Served, err = find(ctx, project, name); err != nil {
			return nil, err
		}
		k.store(key, now, news)
		return now, nil
	})
	select {
	case r := <-done:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*served), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// store keeps what was read, unless there were news meanwhile.
func (k *routes) store(key [2]string, s *served, news uint64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.news != news {
		return
	}
	for key, old := range k.byName {
		if time.Since(old.at) >= knownFor {
			delete(k.byName, key)
		}
	}
	if k.byName == nil || len(k.byName) >= maxKnown {
		k.byName = map[[2]string]*served{}
	}
	if old := k.byName[key]; old != nil {
		s.turn.Store(old.turn.Load())
	}
	k.byName[key] = s
}

// forget drops what is known of a run.
func (k *routes) forget(runID string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.news++
	for key, s := range k.byName {
		if s.RunID == runID {
			delete(k.byName, key)
			k.flight.Forget(key[0] + "\x00" + key[1])
		}
	}
}
