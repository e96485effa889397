package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// DecodeJSON reads a request body into v with the rules of requests: loose scalars,
// unknown fields refused, every problem reported at once with its location. prefix
// starts the locations ("body").
func DecodeJSON(data []byte, v any, prefix ...any) error {
	n, err := parseJSON(data)
	if err != nil {
		p := Problem{Loc: at(prefix, len(data)), Type: "json_invalid", Msg: "JSON decode error", Reason: strings.TrimPrefix(err.Error(), "JSON decode error: "), Input: map[string]any{}}
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			p.Loc = at(prefix, int(syntax.Offset))
		}
		return &Errors{[]Problem{p}}
	}
	d := &decoder{}
	d.value(n, prefix, reflect.ValueOf(v).Elem(), "")
	if len(d.problems) > 0 {
		return &Errors{d.problems}
	}
	return nil
}

// decodeStored reads a document that was checked when it was stored or sent by a peer:
// unknown fields are dropped. It is what UnmarshalJSON of our types does.
func decodeStored(data []byte, v any) error {
	n, err := parseJSON(data)
	if err != nil {
		return err
	}
	d := &decoder{lenient: true}
	d.value(n, nil, reflect.ValueOf(v).Elem(), "")
	if len(d.problems) > 0 {
		return &Errors{d.problems}
	}
	return nil
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

// numberNode reads a JSON number: an integer unless it has a fraction or an exponent.
func numberNode(s string) *node {
	if i, ok := new(big.Int).SetString(s, 10); ok {
		return &node{kind: intKind, int: i, text: s}
	}
	f, _ := strconv.ParseFloat(s, 64) // out of range is an infinity, which fields refuse
	return &node{kind: floatKind, float: f, text: s}
}
