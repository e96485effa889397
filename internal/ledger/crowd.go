package ledger

import (
	"slices"
	"sync"
	"time"

	"dstack/internal/backend"
)

const (
	// workers are the passes at the same time, ofCloud those that ask backends of one name, and atOnce
	// those that ask one account: a provider that does not answer holds up its own intents, not those of
	// others, however many projects have it.
	workers = 256
	ofCloud = workers / 2
	atOnce  = 64
	// crowdPause is when an intent looks again whose account has as many passes as it may; the end of
	// one wakes it. One that has not looked for lostAfter comes no more: another replica has it, say.
	crowdPause = 30 * time.Second
	lostAfter  = 10 * crowdPause
)

// source is who is asked: after a change of credentials, what the old ones said does not count.
type source struct {
	Account
	account string // [backend.AccountOf]
}

// shared is the account at the provider itself, whichever projects have it: those of which a provider
// tells nothing are one for each project.
func (s source) shared() source {
	if s.account != "" {
		s.ProjectID = ""
	}
	return s
}

// crowds are the passes that ask providers, by the names of their backends.
type crowds struct {
	mu sync.Mutex
	of map[string]*crowd
}

// crowd are those of one name, and the intents that wait to ask.
type crowd struct {
	inside int
	by     map[source]int // passes
	wait   []waiter       // the first that came first
}

// waiter is an intent that waits. One that is called keeps its place until it has entered: somebody else
// may have come first.
type waiter struct {
	id     string
	from   source
	asked  time.Time
	called bool
}

// room says that one more may ask an account.
func (w *crowd) room(from source) bool { return w.inside < ofCloud && w.by[from] < atOnce }

// enter lets an intent ask its account's provider, until leave; false when it has to wait.
func (c *crowds) enter(now time.Time, from source, id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of = map[string]*crowd{}
	}
	w := c.of[from.Backend]
	if w == nil {
		w = &crowd{by: map[source]int{}}
		c.of[from.Backend] = w
	}
	from = from.shared()
	at := slices.IndexFunc(w.wait, func(w waiter) bool { return w.id == id })
	switch {
	case w.room(from) && at >= 0:
		w.wait = slices.Delete(w.wait, at, at+1)
	case w.room(from):
	case at >= 0:
		w.wait[at].from, w.wait[at].asked, w.wait[at].called = from, now, false
		return false
	default:
		w.wait = append(w.wait, waiter{id: id, from: from, asked: now})
		return false
	}
	w.inside++
	w.by[from]++
	return true
}

// leave returns the intent that may ask now, "" for none: of the account with the fewest passes, so that
// those which do not answer leave room to one that does, and of that the one that waits longest.
func (c *crowds) leave(now time.Time, from source) (next string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.of[from.Backend]
	from = from.shared()
	w.inside--
	if w.by[from]--; w.by[from] == 0 {
		delete(w.by, from)
	}
	w.wait = slices.DeleteFunc(w.wait, func(w waiter) bool { return now.Sub(w.asked) > lostAfter })
	first, fewest := -1, atOnce
	for at, o := range w.wait {
		if o.called || first >= 0 && o.from == w.wait[first].from {
			continue
		}
		if n := w.by[o.from]; n < fewest {
			first, fewest = at, n
		}
	}
	if first >= 0 {
		w.wait[first].called = true
		next = w.wait[first].id
	}
	if w.inside == 0 && len(w.wait) == 0 {
		delete(c.of, from.Backend)
	}
	return next
}

// sourceOf is who is asked about the resources of a project's backend.
func sourceOf(a Account, b backend.Backend) source { return source{a, backend.AccountOf(b)} }
