package proxy

import (
	"context"
	"sync"
	"time"

	"dstack/internal/run"
)

const (
	// reportEvery is how often counts are stored, and how fine they are in time.
	reportEvery = run.RequestSlot
	// reportSoon is the same when a service has no replica yet that could answer.
	reportSoon = 500 * time.Millisecond
	// reportTimeout bounds one attempt to store them.
	reportTimeout = 10 * time.Second
)

// traffic counts the requests for services whose number of replicas follows from it. It holds
// what is not stored yet.
type traffic struct {
	mu     sync.Mutex
	counts map[slot]int
	filled chan bool // holds a value when there are counts: whether they are urgent
}

// slot is a time of a run.
type slot struct {
	runID string
	at    int64
}

func newTraffic() *traffic { return &traffic{counts: map[slot]int{}, filled: make(chan bool, 1)} }

// count notes a request, when it comes: one that takes long is as much work as many short ones.
func (t *traffic) count(s *run.Served) {
	if !s.Scales() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts[slot{s.RunID, run.SlotOf(time.Now())}]++
	urgent := len(s.Replicas) == 0
	select {
	case t.filled <- urgent:
	case was := <-t.filled:
		t.filled <- urgent || was // nobody else sends without the mutex
	}
}

func (t *traffic) take() []run.Requests {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []run.Requests
	for s, n := range t.counts {
		list = append(list, run.Requests{RunID: s.runID, Slot: s.at, Count: n})
	}
	clear(t.counts)
	return list
}

// putBack returns what could not be stored.
func (t *traffic) putBack(list []run.Requests) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range list {
		t.counts[slot{r.RunID, r.Slot}] += r.Count
	}
}

// Run stores counts until ctx ends.
func (p *Proxy) Run(ctx context.Context) error {
	for {
		wait := reportEvery
		select {
		case urgent := <-p.traffic.filled:
			if urgent {
				wait = reportSoon
			}
		case <-ctx.Done():
			return nil
		}
		if !p.pause(ctx, wait) {
			return nil
		}
		list := p.traffic.take()
		ctx, cancel := context.WithTimeout(ctx, reportTimeout)
		err := p.Report(ctx, list)
		cancel()
		if err != nil && ctx.Err() == nil {
			p.Log.Warn("requests of services are not counted yet", "err", err)
			p.traffic.putBack(list)
		}
	}
}

// pause waits, less when counts become urgent; false means that ctx has ended.
func (p *Proxy) pause(ctx context.Context, d time.Duration) bool {
	end := time.Now().Add(d)
	for {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(time.Until(end)):
			return true
		case urgent := <-p.traffic.filled:
			if soon := time.Now().Add(reportSoon); urgent && soon.Before(end) {
				end = soon
			}
		}
	}
}
