// Package encoded keeps what was encoded as JSON before: what a list shows of a row is the
// same until the row changes, and copying it takes a hundredth of encoding it.
package encoded

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"sync"
)

// JSON is a T as [json.Marshal] writes it, in pieces that other documents share.
type JSON[T any] [][]byte

// Of encodes a value.
func Of[T any](v T) (JSON[T], error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode a %T: %w", v, err)
	}
	return JSON[T]{data}, nil
}

// List is the document of a list.
func List[T any](items []JSON[T]) JSON[[]T] {
	pieces, comma := make([][]byte, 0, 2*len(items)+2), []byte(",")
	pieces = append(pieces, []byte("["))
	for n, i := range items {
		if n > 0 {
			pieces = append(pieces, comma)
		}
		pieces = append(pieces, i...)
	}
	return append(pieces, []byte("]"))
}

// With is an object that has members, and another one at its end.
func With[T, V any](j JSON[T], name string, value JSON[V]) JSON[T] {
	pieces := append(j.without("}"), []byte(`,"`+name+`":`))
	return append(append(pieces, value...), []byte("}"))
}

// Fill is an object that ends with an empty list, as it was encoded, with another list in its
// place.
func Fill[T, V any](j JSON[T], list JSON[[]V]) JSON[T] {
	return append(append(j.without("[]}"), list...), []byte("}"))
}

// without are the pieces of a document without its end.
func (j JSON[T]) without(end string) [][]byte {
	last := len(j) - 1
	return append(slices.Clone(j[:last]), bytes.TrimSuffix(j[last], []byte(end)))
}

// Bytes is the document.
func (j JSON[T]) Bytes() []byte { return bytes.Join(j, nil) }

// WriteTo implements [io.WriterTo]. A *bytes.Buffer gets the room for all of it at once.
func (j JSON[T]) WriteTo(w io.Writer) (n int64, err error) {
	if buf, ok := w.(*bytes.Buffer); ok {
		buf.Grow(size(j))
	}
	for _, p := range j {
		m, err := w.Write(p)
		if n += int64(m); err != nil {
			return n, err
		}
	}
	return n, nil
}

func size(pieces [][]byte) int {
	sum := 0
	for _, p := range pieces {
		sum += len(p)
	}
	return sum
}

// MarshalJSON implements [json.Marshaler].
func (j JSON[T]) MarshalJSON() ([]byte, error) { return j.Bytes(), nil }

// Type is that of what is encoded.
func (j JSON[T]) Type() reflect.Type { return reflect.TypeFor[T]() }

// Cache remembers documents by id, each for as long as the state is the same of all that it
// shows. The zero value of everything but MaxBytes is ready; it is safe for concurrent use.
type Cache[ID, State comparable, T any] struct {
	// MaxBytes bounds the documents; when there are more, any others are forgotten.
	MaxBytes int

	mu    sync.Mutex
	texts map[ID]text[State, T]
	bytes int
}

type text[State comparable, T any] struct {
	state State
	json  JSON[T]
}

// Of returns the document of a value in a state; render makes the value when it has to be
// encoded. Nobody changes what it returns.
func (c *Cache[ID, State, T]) Of(id ID, state State, render func() T) (JSON[T], error) {
	c.mu.Lock()
	known, ok := c.texts[id]
	c.mu.Unlock()
	if ok && known.state == state {
		return known.json, nil
	}
	j, err := Of(render())
	if err != nil {
		return j, err
	}
	c.keep(id, text[State, T]{state, j})
	return j, nil
}

func (c *Cache[ID, State, T]) keep(id ID, t text[State, T]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.texts == nil {
		c.texts = map[ID]text[State, T]{}
	}
	c.bytes += t.size() - c.texts[id].size()
	c.texts[id] = t
	for other, o := range c.texts { // any
		if c.bytes <= c.MaxBytes {
			return
		}
		c.bytes -= o.size()
		delete(c.texts, other)
	}
}

func (t text[State, T]) size() int { return size(t.json) }
