package config

import (
	"encoding/json"
	"math"
	"math/big"
	"slices"
	"strconv"
)

// kind says what a node is. Both YAML and JSON become nodes, so that one decoder with one
// set of rules reads both.
type kind int

const (
	nullKind kind = iota
	boolKind
	intKind
	floatKind
	stringKind
	listKind
	mapKind
	timeKind // a YAML date: no field takes one
)

// node is one value of a document with its place.
type node struct {
	kind   kind
	bool   bool
	int    *big.Int
	float  float64
	text   string // of a string; of a number as written
	list   []*node
	keys   []string // of a map, in document order
	values map[string]*node
	keyPos map[string][2]int
	odd    map[string]bool // keys that are no strings in YAML: 1, yes, null
	line   int
	col    int

	repeated []string // keys of a map that are there more than once
	broken   bool     // a text of JSON, or its key, that was not read as it is
}

const (
	maxDepth  = 100
	maxNodes  = 200_000
	maxBytes  = 4 << 20
	maxDigits = 4300 // of a whole number
)

// input is the node as plain values, for error reports.
func (n *node) input() any {
	if n == nil {
		return nil
	}
	switch n.kind {
	case boolKind:
		return n.bool
	case intKind:
		return json.Number(n.int.String())
	case floatKind:
		if math.IsInf(n.float, 0) || math.IsNaN(n.float) {
			return nil
		}
		return n.float
	case stringKind, timeKind:
		return n.text
	case listKind:
		list := make([]any, len(n.list))
		for i, item := range n.list {
			list[i] = item.input()
		}
		return list
	case mapKind:
		m := make(map[string]any, len(n.keys))
		for _, k := range n.keys {
			m[k] = n.values[k].input()
		}
		return m
	}
	return nil
}

// scalarText renders a scalar as the original's language prints it; a list or mapping, which
// stands where a scalar belongs, as JSON.
func (n *node) scalarText() string {
	switch n.kind {
	case boolKind:
		if n.bool {
			return "True"
		}
		return "False"
	case intKind:
		return n.int.String()
	case floatKind:
		return floatText(n.float)
	case nullKind:
		return "None"
	case listKind, mapKind:
		data, _ := json.Marshal(n.input()) // plain values, which cannot fail
		return string(data)
	}
	return n.text
}

// floatText prints a float the way configuration files are echoed: always with a point
// or an exponent, so that 1.0 stays "1.0".
func floatText(f float64) string {
	switch {
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	case math.IsNaN(f):
		return "nan"
	}
	abs := math.Abs(f)
	if abs != 0 && (abs < 1e-4 || abs >= 1e16) {
		s := strconv.FormatFloat(f, 'e', -1, 64)
		return s
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	for _, c := range s {
		if c == '.' {
			return s
		}
	}
	return s + ".0"
}

func newMap() *node {
	return &node{kind: mapKind, values: map[string]*node{}, keyPos: map[string][2]int{}}
}

// set adds a key; the last of several equal keys wins.
func (n *node) set(key string, v *node) {
	if _, again := n.values[key]; !again {
		n.keys = append(n.keys, key)
	}
	n.values[key] = v
}

// at returns a member: of a list by its number, of a map by its key; nil when it is absent.
func (n *node) at(part any) *node {
	switch v := part.(type) {
	case int:
		if n.kind == listKind && v < len(n.list) {
			return n.list[v]
		}
	case string:
		return n.get(v)
	}
	return nil
}

// get returns the value of a key, nil when it is absent.
func (n *node) get(key string) *node {
	if n == nil || n.kind != mapKind {
		return nil
	}
	return n.values[key]
}

func (n *node) clone() *node {
	c := *n
	c.keys = slices.Clone(n.keys)
	c.values = make(map[string]*node, len(n.values))
	for k, v := range n.values {
		c.values[k] = v
	}
	return &c
}

func (n *node) drop(key string) {
	delete(n.values, key)
	n.keys = slices.DeleteFunc(n.keys, func(k string) bool { return k == key })
}

// with is a string node in the place of n.
func (n *node) with(s string) *node {
	return &node{kind: stringKind, text: s, line: n.line, col: n.col}
}
