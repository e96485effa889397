package proxy

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"dstack/internal/run"
)

const (
	// silentAfter is how long a replica may say nothing before its host is asked for a sign of
	// life, again and again: models think for minutes, but hosts answer.
	silentAfter = 5 * time.Second
	// signTimeout bounds how long the host may take.
	signTimeout = 5 * time.Second
)

// errSilent says that a replica's host gives no sign of life.
var errSilent = errors.New("the host of the replica does not answer")

// signs remember which hosts gave a sign of life lately, so that many requests to one ask it once.
// The zero value is ready to use.
type signs struct {
	mu     sync.Mutex
	seen   map[string]time.Time // by instance
	flight singleflight.Group
}

// ask wants a sign that is not older than d.
func (s *signs) ask(e run.Endpoint, d time.Duration, alive func(ctx context.Context, e run.Endpoint) error) error {
	s.mu.Lock()
	at, ok := s.seen[e.InstanceID]
	s.mu.Unlock()
	if ok && time.Since(at) < d {
		return nil
	}
	_, err, _ := s.flight.Do(e.InstanceID, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.Background(), signTimeout) // for all who want to know
		defer cancel()
		if err := alive(ctx, e); err != nil {
			return nil, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.seen == nil || len(s.seen) >= maxKnown {
			s.seen = map[string]time.Time{}
		}
		s.seen[e.InstanceID] = time.Now()
		return nil, nil
	})
	return err
}

// watch ends a request whose replica's host has gone silent: connections that are kept would not
// notice for a minute.
type watch struct {
	p      *Proxy
	e      run.Endpoint
	ctx    context.Context
	cancel context.CancelCauseFunc
	mu     sync.Mutex // of the timer, which is there before it can run
	timer  *time.Timer
}

// watched begins to watch; stop ends that, and the request.
func (p *Proxy) watched(ctx context.Context, e run.Endpoint) *watch {
	w := &watch{p: p, e: e}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(p.silentAfter, w.look)
	return w
}

func (w *watch) look() {
	if w.ctx.Err() != nil {
		return
	}
	if err := w.p.signs.ask(w.e, w.p.silentAfter, w.p.Alive); err != nil {
		w.p.Log.Warn("a request is given up: the host of a replica does not answer", "job", w.e.JobID, "err", err)
		w.cancel(errSilent)
		return
	}
	w.said()
}

// said says that there was a sign of life.
func (w *watch) said() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ctx.Err() == nil {
		w.timer.Reset(w.p.silentAfter)
	}
}

// stop ends the watch. The error is [errSilent] if the watch has ended the request.
func (w *watch) stop() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer.Stop()
	w.cancel(nil)
	if context.Cause(w.ctx) == errSilent {
		return errSilent
	}
	return nil
}
