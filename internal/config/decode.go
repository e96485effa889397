package config

import (
	"encoding/json"
	"errors"
	"fmt"
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
	if p, ok := errors.AsType[*Problem](err); ok {
		d.add(n, loc, p.Type, "%s", p.Msg)
	} else if err != nil {
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
	if d.lenient {
		d.fields(n, loc, v, nil)
	} else {
		known := map[string]bool{}
		d.fields(n, loc, v, known)
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
		if known != nil {
			known[name] = true
		}
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
