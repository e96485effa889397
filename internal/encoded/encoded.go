// Package encoded keeps what was encoded as JSON before: what a list shows of a row is the
// same until the row changes, and copying it takes a hundredth of encoding it.
package encoded

import (
	"encoding/json"
	"fmt"
	"reflect"
	"sync"
)

// JSON is a T as [json.Marshal] writes it.
type JSON[T any] []byte

// Encoded is the document.
func (j JSON[T]) Encoded() []byte { return j }

// MarshalJSON implements [json.Marshaler]: [json.Marshal] looks through all of it once more,
// which who writes it as it is need not.
func (j JSON[T]) MarshalJSON() ([]byte, error) { return j, nil }

// Type is that of what is encoded.
func (j JSON[T]) Type() reflect.Type { return reflect.TypeFor[T]() }

// Of encodes a value.
func Of[T any](v T) (JSON[T], error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode a %T: %w", v, err)
	}
	return data, nil
}

// List is the document of a list.
func List[T any](items []JSON[T]) JSON[[]T] {
	size := 2
	for _, i := range items {
		size += len(i) + 1
	}
	list := append(make([]byte, 0, size), '[')
	for n, i := range items {
		if n > 0 {
			list = append(list, ',')
		}
		list = append(list, i...)
	}
	return append(list, ']')
}

// With is an object with another member at its end.
func With[T, V any](j JSON[T], name string, value JSON[V]) JSON[T] {
	out := make([]byte, 0, len(j)+len(name)+len(value)+4)
	out = append(out, j[:len(j)-1]...)
	if len(j) > len("{}") {
		out = append(out, ',')
	}
	out = append(out, '"')
	out = append(out, name...)
	out = append(out, `":`...)
	out = append(out, value...)
	return append(out, '}')
}

// Fill is an object that ends with an empty list, with another list in its place.
func Fill[T, V any](j JSON[T], list JSON[[]V]) JSON[T] {
	const end = "[]}"
	out := make([]byte, 0, len(j)+len(list))
	out = append(out, j[:len(j)-len(end)]...)
	out = append(out, list...)
	return append(out, '}')
}

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
	data, err := Of(render())
	if err != nil {
		return nil, err
	}
	c.keep(id, text[State, T]{state, data})
	return data, nil
}

func (c *Cache[ID, State, T]) keep(id ID, t text[State, T]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.texts == nil {
		c.texts = map[ID]text[State, T]{}
	}
	c.bytes += len(t.json) - len(c.texts[id].json)
	c.texts[id] = t
	for other := range c.texts { // any
		if c.bytes <= c.MaxBytes {
			return
		}
		c.bytes -= len(c.texts[other].json)
		delete(c.texts, other)
	}
}
