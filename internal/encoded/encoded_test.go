package encoded

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
)

type item struct {
	Name  string `json:"name"`
	Parts []int  `json:"parts,omitempty"`
}

// A list of documents, and an object with a member more, are what encoding/json writes.
func TestSameAsMarshal(t *testing.T) {
	for _, items := range [][]item{{}, {{Name: "<a> & \u2028"}}, {{Name: "b", Parts: []int{1, 2}}, {Name: "c"}}} {
		want, err := json.Marshal(items)
		if err != nil {
			t.Fatal(err)
		}
		var c Cache[string, int, item]
		list := make([]JSON[item], len(items))
		for n, i := range items {
			if list[n], err = c.Of(i.Name, 1, func() item { return i }); err != nil {
				t.Fatal(err)
			}
		}
		whole := List(list)
		var buf bytes.Buffer
		n, err := whole.WriteTo(&buf)
		if got := whole.Bytes(); string(got) != string(want) || buf.String() != string(want) || err != nil || n != int64(len(want)) {
			t.Errorf("List: %s, written %s (%d, %v), want %s", got, buf.String(), n, err, want)
		}
	}
	for want, got := range map[string]JSON[item]{
		`{"name":"b","parts":[1]}`:            With(JSON[item]{[]byte(`{"name":"b"}`)}, "parts", JSON[[]int]{[]byte(`[1]`)}),
		`{"name":"","parts":[3,4]}`:           Fill(JSON[item]{[]byte(`{"name":"","parts":[]}`)}, List([]JSON[int]{{[]byte("3")}, {[]byte("4")}})),
		`{"name":"","parts":[],"other":"[]"}`: With(Fill(JSON[item]{[]byte(`{"name":"","parts":[]}`)}, List[int](nil)), "other", JSON[string]{[]byte(`"[]"`)}),
	} {
		if string(got.Bytes()) != want {
			t.Errorf("%s, want %s", got.Bytes(), want)
		}
	}
}

// A document is encoded once for each state in a row.
func TestState(t *testing.T) {
	c := Cache[string, int, any]{MaxBytes: 1000}
	encoded := 0
	for _, step := range []struct{ state, want int }{{1, 1}, {1, 1}, {2, 2}, {2, 2}, {1, 3}} {
		got, err := c.Of("a", step.state, func() any { encoded++; return step.state })
		if err != nil {
			t.Fatal(err)
		}
		if string(got.Bytes()) != fmt.Sprint(step.state) || encoded != step.want {
			t.Errorf("in state %d: %s, encoded %d times, want %d", step.state, got.Bytes(), encoded, step.want)
		}
	}
	if _, err := c.Of("b", 1, func() any { return func() {} }); err == nil {
		t.Error("what cannot be encoded is no error")
	}
}

// What is remembered is bounded, whatever is asked for and by how many.
func TestBound(t *testing.T) {
	c := Cache[int, int, string]{MaxBytes: 1000}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for n := range 500 {
				want := strings.Repeat("x", n%300)
				got, err := c.Of(n%50, g*500+n, func() string { return want })
				if err != nil || len(got.Bytes()) != len(want)+2 {
					t.Errorf("%d bytes and %v, want %d", len(got.Bytes()), err, len(want)+2)
				}
			}
		})
	}
	wg.Wait()
	sum := 0
	for _, text := range c.texts {
		sum += text.size()
	}
	if sum != c.bytes || sum > c.MaxBytes {
		t.Errorf("%d bytes are kept, %d counted, at most %d allowed", sum, c.bytes, c.MaxBytes)
	}
	if _, err := c.Of(1, -1, func() string { return strings.Repeat("x", 2000) }); err != nil || c.bytes > c.MaxBytes {
		t.Errorf("a document that is too large: %v, %d bytes are kept", err, c.bytes)
	}
}
