package engine

import (
	"container/heap"
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// queue holds the objects of one kind that are not idle. An entry is in exactly one place:
// ready (waits for a worker), later (waits for a time) or running.
type queue struct {
	Kind
	pass func(ctx context.Context, k *Kind, e *entry) verdict

	missed atomic.Bool // the next sweep looks at all objects of the kind: wake-ups may be lost

	mu      sync.Mutex
	entries map[string]*entry
	ready   fifo
	later   timeHeap
	timer   *time.Timer                                       // fires at later[0].at; nil before open
	armed   time.Time                                         // what timer is set to, zero when it is not
	begin   func() (context.Context, context.CancelCauseFunc) // of a pass; nil before open
	workers sync.WaitGroup
	running int
	closed  bool
	passes  int64
	failed  int64
	busy    time.Duration
}

type place int

const (
	idle place = iota // not in entries
	inReady
	inLater
	isRunning
)

// entry is one object. Its fields belong to the queue's mutex, but id, and while it runs attempt.
type entry struct {
	id      string
	place   place
	index   int       // in later
	at      time.Time // when inLater: the time; when isRunning: the earliest Schedule meanwhile
	woken   bool      // while isRunning: run once more
	attempt int       // passes that failed in a row
	err     error     // of the last one
	began   time.Time
	cancel  context.CancelCauseFunc // while isRunning: ends the pass
}

// verdict is what a pass says about the object.
type verdict struct {
	again time.Time // zero: none
	err   error     // counted and kept when not nil
	drop  bool      // the object is no longer ours
}

func newQueue(k Kind, pass func(context.Context, *Kind, *entry) verdict) *queue {
	return &queue{Kind: k, pass: pass, entries: map[string]*entry{}}
}

// open lets workers start. ctx is for the passes.
func (q *queue) open(ctx context.Context) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.begin = func() (context.Context, context.CancelCauseFunc) { return context.WithCancelCause(ctx) }
	q.timer = time.AfterFunc(time.Hour, q.due)
	q.timer.Stop()
	q.arm()
	for range q.Workers {
		q.hire()
	}
}

// close starts no more passes and waits for those that run.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	if q.timer != nil {
		q.timer.Stop()
	}
	q.mu.Unlock()
	q.workers.Wait()
}

func (q *queue) wake(id string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.entry(id)
	switch e.place {
	case isRunning:
		e.woken = true
		return
	case inReady:
		return
	case inLater:
		heap.Remove(&q.later, e.index)
		q.arm()
	}
	q.push(e)
}

func (q *queue) schedule(id string, at time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.delay(q.entry(id), at)
}

// lookAnyway is how long an object is left alone that asked for a later time, and up to half as long again, so that
// what was looked at together is not again. It is no less than reconcilers pause between calls to providers.
const lookAnyway = 10 * time.Minute

// sweep schedules an object that nothing else is going to look at for soon, and one whose time is far away for
// when it is to be looked at anyway, if that is before the next sweep.
func (q *queue) sweep(id string, soon, next time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch e := q.entry(id); e.place {
	case idle:
		q.delay(e, soon)
	case inLater:
		at := e.began.Add(lookAnyway + apart(lookAnyway/2, id, 0))
		if !at.Before(next) {
			return
		}
		if at.Before(time.Now()) { // late, with many others: this process stood still, say
			at = soon
		}
		q.delay(e, at)
	}
}

// drop forgets the objects of lost shards, and ends the passes that run for them: what they
// still do is the new owner's business now. It returns those that were to be looked at now, or whose last pass
// failed: the new owner may have looked at them before whatever they were woken for.
func (q *queue) drop(lost func(shard int) bool) (unseen []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for id, e := range q.entries {
		if !lost(Shard(id)) {
			continue
		}
		if e.place == inReady || e.place == inLater && e.err != nil || e.woken {
			unseen = append(unseen, id)
		}
		switch e.place {
		case inLater:
			heap.Remove(&q.later, e.index)
		case inReady:
			q.ready.remove(e)
		case isRunning:
			e.woken, e.at = false, time.Time{}
			e.cancel(ErrFenced)
			continue
		}
		delete(q.entries, id)
	}
	q.arm()
	return unseen
}

func (q *queue) problem(id string) *Problem {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.entries[id]
	if e == nil || e.err == nil {
		return nil
	}
	return &Problem{Err: e.err, Attempt: e.attempt, Next: e.at}
}

func (q *queue) stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := Stats{
		Kind: q.Name, Waiting: q.ready.len(), Scheduled: len(q.later), Running: q.running,
		Passes: q.passes, Failed: q.failed, Busy: q.busy,
	}
	for _, e := range q.entries {
		if e.place == isRunning {
			s.LongestInFlight = max(s.LongestInFlight, time.Since(e.began))
		}
	}
	return s
}

// The methods below want the mutex held.

func (q *queue) entry(id string) *entry {
	e := q.entries[id]
	if e == nil {
		e = &entry{id: id}
		q.entries[id] = e
	}
	return e
}

func (q *queue) push(e *entry) {
	e.place, e.at = inReady, time.Time{}
	q.ready.push(e)
	q.hire()
}

// delay moves e to later, unless it is due earlier anyway.
func (q *queue) delay(e *entry, at time.Time) {
	switch e.place {
	case isRunning:
		if e.at.IsZero() || at.Before(e.at) {
			e.at = at
		}
		return
	case inReady:
		return
	case inLater:
		if !at.Before(e.at) {
			return
		}
		e.at = at
		heap.Fix(&q.later, e.index)
	default:
		e.place, e.at = inLater, at
		heap.Push(&q.later, e)
	}
	q.arm()
}

// arm sets the timer to the earliest entry.
func (q *queue) arm() {
	if q.timer == nil || q.closed {
		return
	}
	if len(q.later) == 0 {
		q.timer.Stop()
		q.armed = time.Time{}
		return
	}
	if at := q.later[0].at; !at.Equal(q.armed) {
		q.armed = at
		q.timer.Reset(time.Until(at))
	}
}

// due is the timer: it moves what is due from later to ready.
func (q *queue) due() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.armed = time.Time{}
	now := time.Now()
	for len(q.later) > 0 && !q.later[0].at.After(now) {
		q.push(heap.Pop(&q.later).(*entry))
	}
	q.arm()
}

// hire starts a worker when there is work for one more. Workers end when nothing is ready.
func (q *queue) hire() {
	if q.begin == nil || q.closed || q.running >= q.Workers || q.ready.len() == 0 {
		return
	}
	q.running++
	q.workers.Go(q.worker)
}

func (q *queue) worker() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.closed && q.ready.len() > 0 {
		e := q.ready.pop()
		e.place, e.began = isRunning, time.Now()
		var ctx context.Context
		ctx, e.cancel = q.begin()
		q.mu.Unlock()
		v := q.pass(ctx, &q.Kind, e)
		q.mu.Lock()
		e.cancel(nil)
		q.done(e, v)
	}
	q.running--
}

// failedPause is the least time between a failed pass and the one for a wake-up during it:
// two objects that fail and wake each other must not spin.
const failedPause = 100 * time.Millisecond

func (q *queue) done(e *entry, v verdict) {
	now := time.Now()
	q.passes++
	q.busy += now.Sub(e.began)
	e.err = v.err
	if v.err != nil {
		q.failed++
		e.attempt++
	} else {
		e.attempt = 0
	}
	woken, next := e.woken, e.at
	if next.IsZero() || (!v.again.IsZero() && v.again.Before(next)) {
		next = v.again
	}
	e.place, e.woken, e.at = idle, false, time.Time{}
	if woken && v.err != nil && next.After(now.Add(failedPause)) {
		next = now.Add(failedPause)
	}
	switch {
	case v.drop && !woken: // who is woken again after it was lost is ours again
		delete(q.entries, e.id)
	case woken && v.err == nil, !next.IsZero() && !next.After(now):
		q.push(e)
	case !next.IsZero():
		q.delay(e, next)
	default:
		delete(q.entries, e.id)
	}
}

// fifo is a queue of entries in a ring.
type fifo struct {
	ring []*entry
	head int
	n    int
}

func (f *fifo) len() int { return f.n }

func (f *fifo) push(e *entry) {
	if f.n == len(f.ring) {
		bigger := make([]*entry, max(16, 2*f.n))
		for i := range f.n {
			bigger[i] = f.ring[(f.head+i)%len(f.ring)]
		}
		f.ring, f.head = bigger, 0
	}
	f.ring[(f.head+f.n)%len(f.ring)] = e
	f.n++
}

func (f *fifo) pop() *entry {
	e := f.ring[f.head]
	f.ring[f.head] = nil
	f.head = (f.head + 1) % len(f.ring)
	f.n--
	return e
}

// remove takes e out of the middle; it is rare and linear.
func (f *fifo) remove(e *entry) {
	for range f.n {
		if x := f.pop(); x != e {
			f.push(x)
		}
	}
}

// timeHeap is a container/heap of entries by time.
type timeHeap []*entry

func (h timeHeap) Len() int           { return len(h) }
func (h timeHeap) Less(i, j int) bool { return h[i].at.Before(h[j].at) }
func (h timeHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *timeHeap) Push(x any) {
	e := x.(*entry)
	e.index = len(*h)
	*h = append(*h, e)
}

func (h *timeHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return e
}
