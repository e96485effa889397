package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"strconv"
	"unicode/utf8"
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

// parseJSON reads one JSON document.
func parseJSON(data []byte) (*node, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("JSON decode error: the document is not UTF-8 text")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	p := jsonParser{dec: dec}
	n, err := p.value(0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("JSON decode error: extra data after the document at byte %d", dec.InputOffset())
	}
	return n, nil
}

type jsonParser struct {
	dec   *json.Decoder
	nodes int
}

func (p *jsonParser) value(depth int) (*node, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("JSON decode error: nested deeper than %d levels", maxDepth)
	}
	if p.nodes++; p.nodes > maxNodes {
		return nil, fmt.Errorf("JSON decode error: more than %d values", maxNodes)
	}
	tok, err := p.dec.Token()
	if err != nil {
		return nil, fmt.Errorf("JSON decode error: %w", err)
	}
	switch v := tok.(type) {
	case nil:
		return &node{kind: nullKind}, nil
	case bool:
		return &node{kind: boolKind, bool: v}, nil
	case string:
		return &node{kind: stringKind, text: v}, nil
	case json.Number:
		if len(v) > maxDigits {
			return nil, fmt.Errorf("JSON decode error: a number of more than %d digits", maxDigits)
		}
		return numberNode(v.String()), nil
	case json.Delim:
		if v == '[' {
			return p.list(depth)
		}
		return p.object(depth)
	}
	return nil, fmt.Errorf("JSON decode error: unexpected %v", tok)
}

func (p *jsonParser) list(depth int) (*node, error) {
	n := &node{kind: listKind}
	for p.dec.More() {
		item, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		n.list = append(n.list, item)
	}
	_, err := p.dec.Token()
	if err != nil {
		return nil, fmt.Errorf("JSON decode error: %w", err)
	}
	return n, nil
}

func (p *jsonParser) object(depth int) (*node, error) {
	n := newMap()
	for p.dec.More() {
		tok, err := p.dec.Token()
		if err != nil {
			return nil, fmt.Errorf("JSON decode error: %w", err)
		}
		key, ok := tok.(string)
		if !ok {
			return nil, fmt.Errorf("JSON decode error: a key must be a string")
		}
		value, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		n.set(key, value)
	}
	_, err := p.dec.Token()
	if err != nil {
		return nil, fmt.Errorf("JSON decode error: %w", err)
	}
	return n, nil
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

// get returns the value of a key, nil when it is absent.
func (n *node) get(key string) *node {
	if n == nil || n.kind != mapKind {
		return nil
	}
	return n.values[key]
}

// numberNode reads a JSON number: an integer unless it has a fraction or an exponent.
func numberNode(s string) *node {
	if i, ok := new(big.Int).SetString(s, 10); ok {
		return &node{kind: intKind, int: i, text: s}
	}
	f, _ := strconv.ParseFloat(s, 64) // out of range is an infinity, which fields refuse
	return &node{kind: floatKind, float: f, text: s}
}
