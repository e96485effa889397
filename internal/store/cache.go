package store

import (
	"math"
	"sync"
)

// Unknown is a version that no row has. They begin with 1; by hand anything can be made of them.
const Unknown = math.MinInt64

// Cache remembers rows by id and version: reading one again costs a tenth of decoding its
// document again. It knows one version of each, the one that it was told last: whoever asks compares it with
// what the row has. What it gives is shared, nobody changes what a value points to. The zero
// value of everything but Max is ready; it is safe for concurrent use.
type Cache[T any] struct {
	// Max bounds the rows; when there are more, any other is forgotten.
	Max int

	mu   sync.Mutex
	rows map[string]remembered[T]
}

type remembered[T any] struct {
	version int64
	value   T
}

// Get returns a row as it was in a version, with that version; [Unknown] when none is known.
func (c *Cache[T]) Get(id string) (T, int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, known := c.rows[id]
	if !known {
		return r.value, Unknown
	}
	return r.value, r.version
}

// Read remembers a row that was read with q, unless that is a transaction: what it sees may
// be undone.
func (c *Cache[T]) Read(q Querier, id string, version int64, v T) {
	if _, undoable := q.(*Tx); !undoable {
		c.put(id, version, v)
	}
}

// Written remembers a row that a transaction has written, once it is committed.
func (c *Cache[T]) Written(tx *Tx, id string, version int64, v T) {
	tx.OnCommit(func() { c.put(id, version, v) })
}

func (c *Cache[T]) put(id string, version int64, v T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rows == nil {
		c.rows = map[string]remembered[T]{}
	}
	if _, known := c.rows[id]; !known && len(c.rows) >= c.Max {
		for other := range c.rows { // any
			delete(c.rows, other)
			break
		}
	}
	c.rows[id] = remembered[T]{version, v}
}
