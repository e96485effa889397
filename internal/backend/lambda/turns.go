package lambda

import (
	"slices"
	"sync"
	"time"

	"dstack/internal/backend"
)

// turns keep launches a fixed time apart, as Lambda's limit asks. Nobody waits for a turn here:
// whoever is early is told when to come back and finds the turn kept, so that the ledger can
// see meanwhile that a machine is not wanted any more. It is safe for concurrent use.
type turns struct {
	every time.Duration
	mu    sync.Mutex
	queue []turn    // those that were given and not used, in their order
	busy  bool      // somebody launches now
	ended time.Time // when the last launch did
}

// turn is when a token may launch.
type turn struct {
	token string
	at    time.Time
}

const (
	// turnPatience is how far away a turn is given: ten launches.
	turnPatience = 2 * time.Minute
	// turnSlack is how early a token may come, as what a launch needs before takes time.
	turnSlack = time.Second
)

// take says that a token may launch now, or with a *backend.RateLimitedError when it shall come
// back. A turn whose token does not come within another is lost.
func (q *turns) take(token string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	q.queue = slices.DeleteFunc(q.queue, func(t turn) bool { return t.token != token && t.at.Add(q.every).Before(now) })
	i := slices.IndexFunc(q.queue, func(t turn) bool { return t.token == token })
	if i < 0 {
		at := q.after(now, len(q.queue))
		if d := at.Sub(now); d > turnPatience {
			return &backend.RateLimitedError{After: d}
		}
		q.queue = append(q.queue, turn{token, at})
		i = len(q.queue) - 1
	}
	at := later(q.queue[i].at, q.after(now, 0))
	q.queue[i].at = at
	if d := at.Sub(now); d > turnSlack {
		return &backend.RateLimitedError{After: d}
	}
	q.busy = true
	return nil
}

// after is the earliest turn behind the first n of the queue.
func (q *turns) after(now time.Time, n int) time.Time {
	at := later(now, q.ended.Add(q.every))
	if q.busy {
		at = later(at, now.Add(q.every))
	}
	if n > 0 {
		at = later(at, q.queue[n-1].at.Add(q.every))
	}
	return at
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// giveBack ends the turn of a token; launched says that it was used, just now, which the
// others keep their distance from.
func (q *turns) giveBack(token string, launched bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	q.busy = false
	q.queue = slices.DeleteFunc(q.queue, func(t turn) bool { return t.token == token })
	if launched {
		q.ended = now
	}
	for i := range q.queue {
		q.queue[i].at = later(q.queue[i].at, q.after(now, i))
	}
}

// open is the time from which on the next launch may be sent.
func (q *turns) open() time.Time {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.ended.Add(q.every)
}
