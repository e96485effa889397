package lambda

import (
	"slices"
	"sync"
	"time"

	"dstack/internal/backend"
)

// turns keep launches a fixed time apart, as Lambda's limit asks. Nobody waits for a turn here, longer
// than it takes to see who else wants one: whoever is early is told when to come back and keeps the place
// in the queue, so that the ledger can see meanwhile that a machine is not wanted any more. It is safe for concurrent use.
type turns struct {
	every time.Duration
	mu    sync.Mutex
	queue []waiter  // by rank, equal ones in the order of asking; see maxPassed
	came  int       // how many have joined the queue
	busy  bool      // somebody launches now
	ended time.Time // when the last launch did
}

// waiter is a token that was told when to come back.
type waiter struct {
	token string
	rank  backend.Rank
	of    string // what is to be launched
	due   time.Time
	came  int // its number in the order of asking
	// passed is how many have launched something else that came later, and were before it by rank.
	passed int
}

const (
	// longestAway is how long a token is told to stay away: a shorter queue lets it move up then.
	longestAway = time.Minute
	// turnSlack is how early a token may come, as what a launch needs before takes time.
	turnSlack = time.Second
	// gathering is how long the first at an idle Lambda waits: wishes of one moment ask in any order.
	gathering = 200 * time.Millisecond
	// maxPassed is how many later ones may go before one that waits for something else: the first of the
	// queue, if it is refused again and again, would have all turns. Who waits for the same would be refused
	// as well.
	maxPassed = 3
)

// join queues a token, if it is not there yet, and is how long those of a higher rank may still come before
// it takes its turn: zero for a token that would have to come back anyway.
func (q *turns) join(req backend.CreateRequest) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	place, known := q.place(req, now)
	if known || q.away(place, now) > turnSlack {
		return 0
	}
	return gathering
}

// take says that a token may launch now, or with a *backend.RateLimitedError when it shall come
// back. A token that does not come within another turn of that loses its place. Who may launch
// has to call giveBack.
func (q *turns) take(req backend.CreateRequest) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	place, _ := q.place(req, now)
	away := q.away(place, now)
	if away <= turnSlack {
		w := q.queue[place]
		q.queue = slices.Delete(q.queue, place, place+1)
		for i := range q.queue {
			if v := &q.queue[i]; v.came < w.came && v.of != w.of {
				v.passed++
			}
		}
		q.busy = true
		return nil
	}
	away = min(away, longestAway)
	q.queue[place].due = now.Add(away)
	return &backend.RateLimitedError{After: away, Queued: true}
}

// place finds a token in the queue, known, or puts it there, without those who did not come.
func (q *turns) place(req backend.CreateRequest, now time.Time) (place int, known bool) {
	q.queue = slices.DeleteFunc(q.queue, func(w waiter) bool { return w.token != req.Token && w.due.Add(q.every).Before(now) })
	if place = slices.IndexFunc(q.queue, func(w waiter) bool { return w.token == req.Token }); place >= 0 {
		return place, true
	}
	w := waiter{token: req.Token, rank: req.Rank, of: req.Offer.Instance + " " + req.Offer.Region, due: now, came: q.came}
	q.came++
	for place = len(q.queue); place > 0; place-- {
		if v := q.queue[place-1]; !w.rank.Before(v.rank) || v.passed >= maxPassed && v.of != w.of {
			break
		}
	}
	q.queue = slices.Insert(q.queue, place, w)
	return place, false
}

// away is how long it takes until the turn of a place in the queue.
func (q *turns) away(place int, now time.Time) time.Duration {
	return q.ready(now).Add(time.Duration(place) * q.every).Sub(now)
}

// ready is when the first of the queue may launch; while another launches, when to ask again.
func (q *turns) ready(now time.Time) time.Time {
	if q.busy {
		return now.Add(q.every)
	}
	if at := q.ended.Add(q.every); at.After(now) {
		return at
	}
	return now
}

// withdraw gives up the place of a token.
func (q *turns) withdraw(token string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.queue = slices.DeleteFunc(q.queue, func(w waiter) bool { return w.token == token })
}

// giveBack ends the turn of who launches; launched says that it was used, just now, which the
// others keep their distance from.
func (q *turns) giveBack(launched bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.busy = false
	if launched {
		q.ended = time.Now()
	}
}

// open is the time from which on the next launch may be sent.
func (q *turns) open() time.Time {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.ended.Add(q.every)
}
