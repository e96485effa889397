package logstore

import (
	"strconv"
	"sync"
)

// pager makes a page of events that come one after the other.
type pager struct {
	query Query
	at    int64 // what comes next: events from this offset on, or before it when descending
	page  Page
	bytes int
	full  bool
}

// addAll takes those of a batch's events that the query asks for, and says whether the page has
// room left.
func (p *pager) addAll(events []Event) bool {
	for i := range events {
		e := events[i]
		if p.query.Descending {
			e = events[len(events)-1-i]
		}
		if p.wants(e) && !p.add(e) {
			return false
		}
	}
	return true
}

func (p *pager) wants(e Event) bool {
	q := p.query
	switch {
	case !q.Start.IsZero() && !e.At.After(q.Start):
		return false
	case q.Descending:
		return e.Offset < p.at && (q.End.IsZero() || !e.At.After(q.End))
	default:
		return e.Offset >= p.at && (q.End.IsZero() || e.At.Before(q.End))
	}
}

// add takes an event, or ends the page before it and returns false.
func (p *pager) add(e Event) bool {
	n := len(p.page.Events)
	if n == min(p.query.Limit, MaxEvents) || p.bytes >= MaxBytes {
		next := e.Offset
		if p.query.Descending {
			next = p.page.Events[n-1].Offset
		}
		p.end(next)
		return false
	}
	p.page.Events = append(p.page.Events, e)
	p.bytes += len(e.Data)
	if !p.query.Descending {
		p.page.Cursor = strconv.FormatInt(e.Offset+int64(len(e.Data)), 10)
	}
	return true
}

func (p *pager) end(next int64) {
	p.full = true
	p.page.Next = strconv.FormatInt(next, 10)
}

// passed goes on behind a batch.
func (p *pager) passed(b batch) {
	if p.at = b.start; !p.query.Descending {
		p.at += b.size()
		p.page.Cursor = strconv.FormatInt(p.at, 10)
	}
}

// batchCacheSize bounds what is kept of batches that were read, in bytes: the pages of a reader
// come out of few batches, and services count the calls.
const batchCacheSize = 16 << 20

type batchKey struct {
	stream string // its ID
	start  int64
}

// batchCache has the batches that were read last. Its zero value is empty.
type batchCache struct {
	mu      sync.Mutex
	batches map[batchKey]cachedBatch
	order   []batchKey // oldest first
	size    int64
}

type cachedBatch struct {
	events []Event
	size   int64
}

func (c *batchCache) get(k batchKey) []Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.batches[k].events
}

func (c *batchCache) put(k batchKey, events []Event, size int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.batches[k]; known {
		return
	}
	if c.batches == nil {
		c.batches = map[batchKey]cachedBatch{}
	}
	c.batches[k] = cachedBatch{events, size}
	c.order = append(c.order, k)
	for c.size += size; c.size > batchCacheSize && len(c.order) > 1; c.order = c.order[1:] {
		c.size -= c.batches[c.order[0]].size
		delete(c.batches, c.order[0])
	}
}
