package config

import (
	"errors"
	"unicode/utf8"

	"github.com/google/uuid"

	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// The decoder fills Go structs from nodes, following the struct tags:
//
//	json:"name"         the key
//	cfg:"req"           absence is an error
//	cfg:"min=1"         numbers ≥ 1; also gt=0, max=100
//	cfg:"minlen=1"      strings, lists
//	cfg:"maxlen=16"
//	cfg:"enum=a|b"      exact words
//	cfg:"uuid"          ids, also of each item of a list
//	cfg:"opt"           null is the same as absence; pointers always allow it
//
// A type with special forms implements decoding; one with defaults or rules of its own
// implements defaulting or validating. Rules are asked also when some fields could not be
// read, so that a document's problems come all at once: they look at clean ones only.
type decoding interface {
	decodeNode(d *decoder, n *node, loc []any)
}

type defaulting interface{ setDefaults() }

type validating interface{ validate(d *decoder, loc []any) }

// decoder collects the problems of one document.
type decoder struct {
	file     string
	lenient  bool // stored documents: unknown keys are dropped
	problems []Problem
}

const maxProblems = 100

func (d *decoder) add(n *node, loc []any, typ, format string, args ...any) {
	if len(d.problems) >= maxProblems {
		return
	}
	p := Problem{File: d.file, Loc: append([]any(nil), loc...), Type: typ, Msg: clip(fmt.Sprintf(format, args...))}
	if n != nil {
		p.Line, p.Col, p.Input = n.line, n.col, n.input()
	}
	d.problems = append(d.problems, p)
}

// reject reports a rule of ours that a value breaks.
func (d *decoder) reject(n *node, loc []any, format string, args ...any) {
	d.add(n, loc, "value_error", "Value error, "+format, args...)
}

func at(loc []any, part any) []any { return append(loc[:len(loc):len(loc)], part) }

// value decodes n into v, which must be settable.
func (d *decoder) value(n *node, loc []any, v reflect.Value, tag string) {
	if v.CanAddr() {
		if special, ok := v.Addr().Interface().(decoding); ok {
			special.decodeNode(d, n, loc)
			return
		}
	}
	switch v.Kind() {
	case reflect.Pointer:
		if n.kind == nullKind {
			v.SetZero()
			return
		}
		p := reflect.New(v.Type().Elem())
		d.value(n, loc, p.Elem(), tag)
		v.Set(p)
	case reflect.Struct:
		if u, ok := v.Addr().Interface().(json.Unmarshaler); ok {
			d.foreign(n, loc, u)
			return
		}
		d.structure(n, loc, v)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			d.foreign(n, loc, v.Addr().Interface())
			return
		}
		d.slice(n, loc, v, tag)
	case reflect.Map:
		d.mapping(n, loc, v, tag)
	case reflect.String:
		d.str(n, loc, v, tag)
	case reflect.Bool:
		if b, ok := d.boolean(n, loc); ok {
			v.SetBool(b)
		}
	case reflect.Int, reflect.Int64, reflect.Int32:
		if i, ok := d.integer(n, loc); ok && d.bounds(n, loc, float64(i), tag) {
			v.SetInt(i)
		}
	case reflect.Float64:
		if f, ok := d.number(n, loc); ok && d.bounds(n, loc, f, tag) {
			v.SetFloat(f)
		}
	case reflect.Interface:
		if in := n.input(); in != nil {
			v.Set(reflect.ValueOf(in))
		}
	default:
		d.add(n, loc, "type_error", "cannot be read")
	}
}

// foreign hands a value to a type that reads JSON itself (times, ids).
func (d *decoder) foreign(n *node, loc []any, u any) {
	data, err := json.Marshal(n.input())
	if err == nil {
		err = json.Unmarshal(data, u)
	}
	if err != nil {
		d.reject(n, loc, "%v", err)
	}
}

func (d *decoder) structure(n *node, loc []any, v reflect.Value) {
	if n.kind != mapKind {
		d.add(n, loc, "model_type", "Input should be a valid dictionary or object to extract fields from")
		return
	}
	if s, ok := v.Addr().Interface().(defaulting); ok {
		s.setDefaults()
	}
	known := map[string]bool{}
	d.fields(n, loc, v, known)
	if !d.lenient {
		for _, k := range n.keys {
			if !known[k] {
				d.unknown(n, loc, k)
			}
		}
	}
	if s, ok := v.Addr().Interface().(validating); ok {
		s.validate(d, loc)
	}
}

// clean says that nothing is wrong with the values at loc or, with keys, with those members
// of it: rules look only at what could be read.
func (d *decoder) clean(loc []any, keys ...string) bool {
	for _, p := range d.problems {
		if len(p.Loc) < len(loc) || !slices.Equal(p.Loc[:len(loc)], loc) {
			continue
		}
		if len(keys) == 0 {
			return false
		}
		if len(p.Loc) == len(loc) {
			return false
		}
		if key, ok := p.Loc[len(loc)].(string); ok && slices.Contains(keys, key) {
			return false
		}
	}
	return true
}

func (d *decoder) unknown(n *node, loc []any, key string) {
	p := *n.values[key]
	if pos, ok := n.keyPos[key]; ok {
		p.line, p.col = pos[0], pos[1]
	}
	d.add(&p, at(loc, key), "extra_forbidden", "Extra inputs are not permitted")
}

func (d *decoder) fields(n *node, loc []any, v reflect.Value, known map[string]bool) {
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous && f.Tag.Get("json") == "" {
			inner := v.Field(i)
			if inner.Addr().CanInterface() {
				if s, ok := inner.Addr().Interface().(defaulting); ok {
					s.setDefaults()
				}
			}
			d.fields(n, loc, inner, known)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" || !f.IsExported() {
			continue
		}
		known[name] = true
		tag := f.Tag.Get("cfg")
		item := n.values[name]
		if item == nil {
			if has(tag, "req") {
				d.add(n, at(loc, name), "missing", "Field required")
			}
			continue
		}
		if item.kind == nullKind && has(tag, "opt") {
			v.Field(i).SetZero()
			continue
		}
		d.value(item, at(loc, name), v.Field(i), tag)
	}
}

func (d *decoder) slice(n *node, loc []any, v reflect.Value, tag string) {
	if n.kind == nullKind && has(tag, "opt") {
		v.SetZero()
		return
	}
	if n.kind != listKind {
		d.add(n, loc, "list_type", "Input should be a valid list")
		return
	}
	if m, ok := option(tag, "minlen"); ok && len(n.list) < int(m) {
		d.add(n, loc, "too_short", "List should have at least %d item after validation, not %d", int(m), len(n.list))
		return
	}
	if m, ok := option(tag, "maxlen"); ok && len(n.list) > int(m) {
		d.add(n, loc, "too_long", "List should have at most %d items after validation, not %d", int(m), len(n.list))
		return
	}
	out := reflect.MakeSlice(v.Type(), len(n.list), len(n.list))
	itemTag := ""
	if words, ok := text(tag, "enum"); ok {
		itemTag = "enum=" + words
	} else if has(tag, "uuid") {
		itemTag = "uuid"
	}
	for i, item := range n.list {
		d.value(item, at(loc, i), out.Index(i), itemTag)
	}
	v.Set(out)
}

func (d *decoder) mapping(n *node, loc []any, v reflect.Value, tag string) {
	if n.kind == nullKind && has(tag, "opt") {
		v.SetZero()
		return
	}
	if n.kind != mapKind {
		d.add(n, loc, "dict_type", "Input should be a valid dictionary")
		return
	}
	out := reflect.MakeMapWithSize(v.Type(), len(n.keys))
	for _, k := range n.keys {
		if !d.stringKey(n, loc, k) {
			continue
		}
		key := reflect.New(v.Type().Key()).Elem()
		switch key.Kind() {
		case reflect.String:
			key.SetString(k)
		case reflect.Int:
			i, err := strconv.Atoi(k)
			if err != nil {
				d.add(n.values[k], at(loc, k), "int_parsing", "Input should be a valid integer, unable to parse string as an integer")
				continue
			}
			key.SetInt(int64(i))
		}
		item := reflect.New(v.Type().Elem()).Elem()
		d.value(n.values[k], at(loc, k), item, "")
		out.SetMapIndex(key, item)
	}
	v.Set(out)
}

// stringKey refuses the keys of a mapping that YAML reads as something else.
func (d *decoder) stringKey(n *node, loc []any, key string) bool {
	if n.odd[key] {
		p := *n.values[key]
		p.line, p.col = n.keyPos[key][0], n.keyPos[key][1]
		d.add(&p, at(loc, key), "string_type", "Input should be a valid string: the key %s is none in YAML, quote it", key)
		return false
	}
	if strings.ContainsRune(key, 0) {
		d.reject(n.values[key], at(loc, key), "NUL characters are not allowed")
		return false
	}
	return true
}

func (d *decoder) str(n *node, loc []any, v reflect.Value, tag string) {
	words, isEnum := text(tag, "enum")
	if isEnum {
		if n.kind == stringKind {
			for _, w := range strings.Split(words, "|") {
				if w == n.text {
					v.SetString(w)
					return
				}
			}
		}
		d.add(n, loc, "enum", "Input should be %s", orList(strings.Split(words, "|")))
		return
	}
	s, ok := d.text(n, loc)
	if !ok {
		return
	}
	if has(tag, "uuid") {
		if s, ok = d.uuid(n, loc, s); !ok {
			return
		}
	}
	if m, set := option(tag, "minlen"); set && len([]rune(s)) < int(m) {
		d.add(n, loc, "string_too_short", "String should have at least %d character%s", int(m), plural(int(m)))
		return
	}
	if m, set := option(tag, "maxlen"); set && len([]rune(s)) > int(m) {
		d.add(n, loc, "string_too_long", "String should have at most %d character%s", int(m), plural(int(m)))
		return
	}
	v.SetString(s)
}

// text takes strings and, as their text, numbers.
func (d *decoder) text(n *node, loc []any) (string, bool) {
	switch n.kind {
	case stringKind:
		if strings.ContainsRune(n.text, 0) {
			d.reject(n, loc, "NUL characters are not allowed")
			return "", false
		}
		return n.text, true
	case intKind, floatKind:
		return n.scalarText(), true
	}
	d.add(n, loc, "string_type", "Input should be a valid string")
	return "", false
}

// uuid reads an id in any of its forms and returns the one that is stored.
func (d *decoder) uuid(n *node, loc []any, s string) (string, bool) {
	id, err := uuid.Parse(s)
	if err == nil {
		return id.String(), true
	}
	if i := strings.IndexFunc(s, func(c rune) bool { return !strings.ContainsRune("0123456789abcdefABCDEF-", c) }); i >= 0 {
		c, _ := utf8.DecodeRuneInString(s[i:])
		d.add(n, loc, "uuid_parsing", "Input should be a valid UUID, invalid character: found `%c` at %d", c, i)
		return "", false
	}
	d.add(n, loc, "uuid_parsing", "Input should be a valid UUID, invalid length: found %d", len(s))
	return "", false
}

// exactText takes strings only: where a value may also be an object, a number is a mistake.
func (d *decoder) exactText(n *node, loc []any) (string, bool) {
	if n.kind != stringKind {
		d.add(n, loc, "string_type", "Input should be a valid string or object")
		return "", false
	}
	return d.text(n, loc)
}

func (d *decoder) boolean(n *node, loc []any) (bool, bool) {
	switch n.kind {
	case boolKind:
		return n.bool, true
	case intKind, floatKind, stringKind:
		if b, ok := looseBool(n); ok {
			return b, true
		}
		d.add(n, loc, "bool_parsing", "Input should be a valid boolean, unable to interpret input")
		return false, false
	}
	d.add(n, loc, "bool_type", "Input should be a valid boolean")
	return false, false
}

func looseBool(n *node) (value, ok bool) {
	switch n.kind {
	case boolKind:
		return n.bool, true
	case intKind:
		if n.int.IsInt64() && (n.int.Int64() == 0 || n.int.Int64() == 1) {
			return n.int.Int64() == 1, true
		}
	case floatKind:
		if n.float == 0 || n.float == 1 {
			return n.float == 1, true
		}
	case stringKind:
		switch strings.ToLower(n.text) {
		case "0", "off", "f", "false", "n", "no":
			return false, true
		case "1", "on", "t", "true", "y", "yes":
			return true, true
		}
	}
	return false, false
}

func (d *decoder) integer(n *node, loc []any) (int64, bool) {
	switch n.kind {
	case intKind:
		if n.int.IsInt64() {
			return n.int.Int64(), true
		}
		d.add(n, loc, "int_parsing_size", "Input should be a valid integer, the number is too large")
		return 0, false
	case floatKind:
		if n.float == math.Trunc(n.float) && math.Abs(n.float) < 1<<63 {
			return int64(n.float), true
		}
		d.add(n, loc, "int_from_float", "Input should be a valid integer, got a number with a fractional part")
		return 0, false
	case stringKind:
		if i, ok := looseInt(n.text); ok {
			return i, true
		}
		d.add(n, loc, "int_parsing", "Input should be a valid integer, unable to parse string as an integer")
		return 0, false
	}
	d.add(n, loc, "int_type", "Input should be a valid integer")
	return 0, false
}

// looseInt reads what the original takes for an integer in a string: signs, leading zeros,
// underscores between digits, a zero fraction, white space around.
func looseInt(s string) (int64, bool) {
	s = strings.TrimSpace(s)
	neg := strings.HasPrefix(s, "-")
	body := strings.TrimPrefix(strings.TrimPrefix(s, "-"), "+")
	if len(s)-len(body) > 1 || len(body) > 4300 {
		return 0, false
	}
	if whole, frac, dot := strings.Cut(body, "."); dot {
		if frac == "" || strings.Trim(frac, "0") != "" {
			return 0, false
		}
		body = whole
	}
	if body == "" || body[0] == '_' || body[len(body)-1] == '_' || strings.Contains(body, "__") {
		return 0, false
	}
	body = strings.ReplaceAll(body, "_", "")
	if !allDigits(body) {
		return 0, false
	}
	i, ok := new(big.Int).SetString(body, 10)
	if !ok || !i.IsInt64() {
		return 0, false
	}
	if neg {
		return -i.Int64(), true
	}
	return i.Int64(), true
}

func (d *decoder) number(n *node, loc []any) (float64, bool) {
	f, ok := 0.0, false
	switch n.kind {
	case intKind:
		f, _ = new(big.Float).SetInt(n.int).Float64()
		ok = true
	case floatKind:
		f, ok = n.float, true
	case stringKind:
		s := strings.TrimSpace(n.text)
		if !strings.ContainsAny(s, "xXpP") {
			var err error
			f, err = strconv.ParseFloat(strings.ReplaceAll(s, "_", ""), 64)
			ok = err == nil
		}
		if !ok {
			d.add(n, loc, "float_parsing", "Input should be a valid number, unable to parse string as a number")
			return 0, false
		}
	}
	if !ok {
		d.add(n, loc, "float_type", "Input should be a valid number")
		return 0, false
	}
	if math.IsInf(f, 0) || math.IsNaN(f) {
		d.add(n, loc, "finite_number", "Input should be a finite number")
		return 0, false
	}
	return f, true
}

func (d *decoder) bounds(n *node, loc []any, f float64, tag string) bool {
	if m, ok := option(tag, "gt"); ok && f <= m {
		d.add(n, loc, "greater_than", "Input should be greater than %v", trimFloat(m))
		return false
	}
	if m, ok := option(tag, "min"); ok && f < m {
		d.add(n, loc, "greater_than_equal", "Input should be greater than or equal to %v", trimFloat(m))
		return false
	}
	if m, ok := option(tag, "max"); ok && f > m {
		d.add(n, loc, "less_than_equal", "Input should be less than or equal to %v", trimFloat(m))
		return false
	}
	return true
}

func trimFloat(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

func has(tag, word string) bool {
	for _, part := range strings.Split(tag, ",") {
		if part == word {
			return true
		}
	}
	return false
}

func text(tag, name string) (string, bool) {
	for _, part := range strings.Split(tag, ",") {
		if v, ok := strings.CutPrefix(part, name+"="); ok {
			return v, true
		}
	}
	return "", false
}

func option(tag, name string) (float64, bool) {
	s, ok := text(tag, name)
	if !ok {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil
}

// orList writes 'a', 'b' or 'c'.
func orList(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = "'" + w + "'"
	}
	if len(quoted) < 2 {
		return strings.Join(quoted, "")
	}
	return strings.Join(quoted[:len(quoted)-1], ", ") + " or " + quoted[len(quoted)-1]
}

func plural(n int) string {
	if n == 1 {
		return ""
	}
	return "s"
}

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
