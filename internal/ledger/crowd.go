package ledger

import (
	"slices"
	"sync"
	"time"
)

const (
	// workers and atOnce bound the passes at the same time, of all accounts and of one: a provider
	// that does not answer holds up its own intents, not those of others.
	workers = 256
	atOnce  = 64
	// crowdPause is when an intent looks again whose account has as many passes as it may; the end of
	// one wakes it.
	crowdPause = 30 * time.Second
)

// crowds are the passes that ask the providers of accounts, and the intents that wait to.
type crowds struct {
	mu sync.Mutex
	of map[Account]*crowd
}

type crowd struct {
	inside int
	wait   []string // ids of intents, the first that came first
}

// enter lets an intent ask its account's provider, until leave; false when it has to wait.
func (c *crowds) enter(a Account, id string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of == nil {
		c.of = map[Account]*crowd{}
	}
	w := c.of[a]
	if w == nil {
		w = &crowd{}
		c.of[a] = w
	}
	at := slices.Index(w.wait, id)
	if w.inside >= atOnce {
		if at < 0 {
			w.wait = append(w.wait, id)
		}
		return false
	}
	if at >= 0 {
		w.wait = slices.Delete(w.wait, at, at+1)
	}
	w.inside++
	return true
}

// leave returns the intent that waits longest, "" for none.
func (c *crowds) leave(a Account) (next string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.of[a]
	w.inside--
	if len(w.wait) > 0 {
		next = w.wait[0]
		w.wait = slices.Delete(w.wait, 0, 1)
	} else if w.inside == 0 {
		delete(c.of, a)
	}
	return next
}
