package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// DecodeJSON reads a request body into v with the rules of requests: loose scalars,
// unknown fields refused, every problem reported at once with its location. prefix
// starts the locations ("body").
func DecodeJSON(data []byte, v any, prefix ...any) error {
	n, broken, err := parseJSON(data)
	if err != nil {
		p := Problem{Loc: at(prefix, len(data)), Type: "json_invalid", Msg: "JSON decode error", Reason: strings.TrimPrefix(err.Error(), "JSON decode error: "), Input: map[string]any{}}
		if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
			p.Loc = at(prefix, int(syntax.ByteOffset))
		}
		return &Errors{[]Problem{p}}
	}
	d := &decoder{}
	if broken {
		d.halves(n, prefix)
	} else {
		d.value(n, prefix, reflect.ValueOf(v).Elem(), "")
	}
	return d.result()
}

// DecodeQuery reads the parameters of an address into v with the rules of [DecodeJSON]. Of one that
// is there more than once the last counts; those that v does not name are for others.
func DecodeQuery(values url.Values, v any) error {
	n := newMap()
	for name, list := range values {
		n.set(name, &node{kind: stringKind, text: list[len(list)-1]})
	}
	d := &decoder{lenient: true}
	d.value(n, []any{"query"}, reflect.ValueOf(v).Elem(), "")
	for i, p := range d.problems {
		if p.Type == "missing" {
			d.problems[i].Input = nil // there is no object around it
		}
	}
	return d.result()
}

func (d *decoder) result() error {
	if len(d.problems) > 0 {
		return &Errors{d.problems}
	}
	return nil
}

// halves reports the texts with half a surrogate pair, which no UTF-8 text can hold.
func (d *decoder) halves(n *node, loc []any) {
	if n.broken {
		d.add(nil, loc, "string_unicode", "Input should be a valid string: half of a surrogate pair is no character")
	}
	for i, item := range n.list {
		d.halves(item, at(loc, i))
	}
	for _, k := range n.keys {
		d.halves(n.values[k], at(loc, k))
	}
}

// decodeStored reads a document that was checked when it was stored or sent by a peer:
// unknown fields are dropped. It is what UnmarshalJSON of our types does.
func decodeStored(data []byte, v any) error {
	n, _, err := parseJSON(data)
	if err != nil {
		return err
	}
	d := &decoder{lenient: true}
	d.value(n, nil, reflect.ValueOf(v).Elem(), "")
	return d.result()
}

// parseJSON reads one JSON document. broken says that some of its texts were not read as they are:
// see [decoder.halves].
func parseJSON(data []byte) (n *node, broken bool, err error) {
	if !utf8.Valid(data) {
		return nil, false, errors.New("JSON decode error: the document is not UTF-8 text")
	}
	// Of keys that are repeated the last counts, and half of a surrogate pair is reported with its place.
	p := jsonParser{dec: jsontext.NewDecoder(bytes.NewBuffer(data), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)), data: data}
	if n, err = p.value(0); err != nil {
		return nil, false, err
	}
	if _, err := p.dec.ReadToken(); err != io.EOF {
		return nil, false, fmt.Errorf("JSON decode error: extra data after the document at byte %d", p.dec.InputOffset())
	}
	return n, p.broken, nil
}

type jsonParser struct {
	dec    *jsontext.Decoder
	data   []byte
	nodes  int
	broken bool
	null   node // stands for every null: stored documents have many
}

// half says that a text which was read from from on has half of a surrogate pair: the decoder
// replaces it without a word.
func (p *jsonParser) half(from int64, text string) bool {
	if !strings.ContainsRune(text, utf8.RuneError) {
		return false
	}
	escaped := p.data[from:p.dec.InputOffset()]
	for {
		i := bytes.IndexByte(escaped, '\\')
		if i < 0 {
			return false
		}
		first, second := escapedUnit(escaped[i:]), escapedUnit(escaped[min(i+6, len(escaped)):])
		switch {
		case !utf16.IsSurrogate(first):
			i += 2
		case utf16.DecodeRune(first, second) == utf8.RuneError:
			p.broken = true
			return true
		default:
			i += 12
		}
		escaped = escaped[i:]
	}
}

// escapedUnit is the UTF-16 unit that text begins with as \uXXXX, 0 if it does not.
func escapedUnit(text []byte) rune {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return 0
	}
	unit, err := strconv.ParseUint(string(text[2:6]), 16, 16)
	if err != nil {
		return 0
	}
	return rune(unit)
}

func (p *jsonParser) value(depth int) (*node, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("JSON decode error: nested deeper than %d levels", maxDepth)
	}
	if p.nodes++; p.nodes > maxNodes {
		return nil, fmt.Errorf("JSON decode error: more than %d values", maxNodes)
	}
	from := p.dec.InputOffset()
	tok, err := p.token()
	if err != nil {
		return nil, err
	}
	switch tok.Kind() {
	case jsontext.KindNull:
		return &p.null, nil
	case jsontext.KindTrue, jsontext.KindFalse:
		return &node{kind: boolKind, bool: tok.Bool()}, nil
	case jsontext.KindString:
		text := tok.String()
		return &node{kind: stringKind, text: text, broken: p.half(from, text)}, nil
	case jsontext.KindNumber:
		text := tok.String()
		if len(text) > maxDigits {
			return nil, fmt.Errorf("JSON decode error: a number of more than %d digits", maxDigits)
		}
		return numberNode(text), nil
	case jsontext.KindBeginArray:
		return p.list(depth)
	}
	return p.object(depth)
}

func (p *jsonParser) token() (jsontext.Token, error) {
	tok, err := p.dec.ReadToken()
	if err != nil {
		return tok, fmt.Errorf("JSON decode error: %w", err)
	}
	return tok, nil
}

func (p *jsonParser) list(depth int) (*node, error) {
	n := &node{kind: listKind}
	for p.dec.PeekKind() != jsontext.KindEndArray {
		item, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		n.list = append(n.list, item)
	}
	_, err := p.token()
	return n, err
}

func (p *jsonParser) object(depth int) (*node, error) {
	var keys []string
	var values []*node
	for p.dec.PeekKind() != jsontext.KindEndObject {
		from := p.dec.InputOffset()
		tok, err := p.token()
		if err != nil {
			return nil, err
		}
		key := tok.String() // the decoder takes nothing else for a key
		broken := p.half(from, key)
		value, err := p.value(depth + 1)
		if err != nil {
			return nil, err
		}
		if broken {
			of := *value
			of.broken = true
			value = &of
		}
		keys, values = append(keys, key), append(values, value)
	}
	if _, err := p.token(); err != nil {
		return nil, err
	}
	n := &node{kind: mapKind, keys: make([]string, 0, len(keys)), values: make(map[string]*node, len(keys))}
	for i, key := range keys {
		n.set(key, values[i])
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
