package jinja

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Values are nil, bool, int64, float64, string, *list, *dict, *object, function, *macro and
// undefined.
type (
	list struct {
		items []any
		tuple bool
	}
	// dict keeps the order of its keys, which are strings, numbers, bools and nil.
	dict struct {
		keys   []any
		values map[any]any
	}
	// object has attributes only: a namespace when it is open, or the state of a loop.
	object struct {
		vars map[string]any
		open bool
	}
	// undefined is what is not there; what says of what.
	undefined struct{ what string }
)

// valueSize is what a value costs in a list or a dict, in bytes.
const valueSize = 16

func (e *exec) list(items []any, tuple bool) *list {
	e.grow(valueSize * len(items))
	return &list{items, tuple}
}

func newDict() *dict { return &dict{values: map[any]any{}} }

// key is a value as the key of a dict: True is 1 and 1.0 is 1, as in Python.
func key(v any) (any, bool) {
	switch v := v.(type) {
	case bool:
		n, _ := toInt(v)
		return n, true
	case float64:
		if n := int64(v); float64(n) == v {
			return n, true
		}
		return v, true
	case nil, int64, string:
		return v, true
	}
	return nil, false
}

func (d *dict) get(at any) (any, bool) {
	k, ok := key(at)
	if !ok {
		return nil, false
	}
	v, ok := d.values[k]
	return v, ok
}

func (d *dict) set(e *exec, at, v any) {
	k, ok := key(at)
	if !ok {
		e.fail("a %s cannot be a key", kind(at))
	}
	if _, there := d.values[k]; !there {
		e.grow(4 * valueSize)
		d.keys = append(d.keys, at)
	}
	d.values[k] = v
}

// at is the value of a key that is there.
func (d *dict) at(k any) any {
	v, _ := d.get(k)
	return v
}

// from makes a template's value of one of Go's.
func (e *exec) from(v any, depth int) any {
	if depth > maxNesting {
		e.fail("a variable is nested too deeply")
	}
	switch v := v.(type) {
	case nil, bool, int64, float64, string:
		return v
	case int:
		return int64(v)
	case []any:
		items := make([]any, len(v))
		for i, one := range v {
			items[i] = e.from(one, depth+1)
		}
		return e.list(items, false)
	case map[string]any:
		d := newDict()
		for _, name := range sortedKeys(v) {
			d.set(e, name, e.from(v[name], depth+1))
		}
		return d
	}
	e.fail("a variable has a type that templates do not know")
	return nil
}

func sortedKeys(m map[string]any) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func kind(v any) string {
	switch v := v.(type) {
	case nil:
		return "none"
	case bool:
		return "boolean"
	case int64, float64:
		return "number"
	case string:
		return "string"
	case *list:
		if v.tuple {
			return "tuple"
		}
		return "list"
	case *dict:
		return "mapping"
	case *object:
		return "namespace"
	case undefined:
		return "value that is undefined"
	}
	return "function"
}

func truth(v any) bool {
	switch v := v.(type) {
	case nil, undefined:
		return false
	case bool:
		return v
	case int64:
		return v != 0
	case float64:
		return v != 0
	case string:
		return v != ""
	case *list:
		return len(v.items) > 0
	case *dict:
		return len(v.keys) > 0
	}
	return true
}

func toInt(v any) (int64, bool) {
	switch v := v.(type) {
	case int64:
		return v, true
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

func toFloat(v any) (float64, bool) {
	if f, ok := v.(float64); ok {
		return f, true
	}
	n, ok := toInt(v)
	return float64(n), ok
}

// items is what a loop over a value goes over.
func (e *exec) items(v any) []any {
	switch v := v.(type) {
	case *list:
		return v.items
	case *dict:
		return v.keys
	case undefined:
		return nil
	case string:
		e.grow(valueSize * len(v))
		items := make([]any, 0, len(v))
		for _, r := range v {
			items = append(items, string(r))
		}
		return items
	}
	e.fail("a %s is nothing to go over", kind(v))
	return nil
}

// text is a value as it is printed.
func (e *exec) text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case undefined:
		return ""
	}
	var b strings.Builder
	e.repr(&b, v, 0)
	return b.String()
}

// repr writes a value as Python does within a list.
func (e *exec) repr(b *strings.Builder, v any, depth int) {
	if depth > maxNesting {
		e.fail("a value is nested too deeply")
	}
	put := func(s string) {
		e.grow(len(s))
		b.WriteString(s)
	}
	switch v := v.(type) {
	case nil:
		put("None")
	case bool:
		if v {
			put("True")
		} else {
			put("False")
		}
	case int64:
		put(strconv.FormatInt(v, 10))
	case float64:
		put(floatText(v))
	case string:
		e.grow(len(v))
		put(quote(v))
	case *list:
		brackets := "[]"
		if v.tuple {
			brackets = "()"
		}
		put(brackets[:1])
		for i, item := range v.items {
			if i > 0 {
				put(", ")
			}
			e.repr(b, item, depth+1)
		}
		if v.tuple && len(v.items) == 1 {
			put(",")
		}
		put(brackets[1:])
	case *dict:
		put("{")
		for i, k := range v.keys {
			if i > 0 {
				put(", ")
			}
			e.repr(b, k, depth+1)
			put(": ")
			e.repr(b, v.at(k), depth+1)
		}
		put("}")
	case undefined:
		put("Undefined")
	default:
		put("<" + kind(v) + ">")
	}
}

// floatText writes a number as Python does: 1.0, 1e+16.
func floatText(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 0):
		return strings.TrimPrefix(strings.ToLower(strconv.FormatFloat(f, 'g', -1, 64)), "+")
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// quote writes a string as Python's repr does.
func quote(s string) string {
	q := byte('\'')
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		q = '"'
	}
	var b strings.Builder
	b.WriteByte(q)
	for _, r := range s {
		switch {
		case r == rune(q), r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x100:
			b.WriteString(`\x` + hex(r, 2))
		case r < 0x10000:
			b.WriteString(`\u` + hex(r, 4))
		default:
			b.WriteString(`\U` + hex(r, 8))
		}
	}
	b.WriteByte(q)
	return b.String()
}

func hex(r rune, digits int) string {
	s := strconv.FormatInt(int64(r), 16)
	return strings.Repeat("0", max(0, digits-len(s))) + s
}

// equal compares as Python's == does.
func (e *exec) equal(a, b any, depth int) bool {
	e.step(1)
	if depth > maxNesting {
		e.fail("a value is nested too deeply")
	}
	switch x := a.(type) {
	case nil:
		return b == nil
	case string:
		y, ok := b.(string)
		e.step(min(len(x), len(y)) >> 6)
		return ok && x == y
	case bool, int64, float64:
		f, _ := toFloat(a)
		g, ok := toFloat(b)
		n, whole := toInt(a)
		m, both := toInt(b)
		return ok && f == g && (!whole || !both || n == m)
	case undefined:
		_, ok := b.(undefined)
		return ok
	case *list:
		y, ok := b.(*list)
		return ok && x.tuple == y.tuple && slices.EqualFunc(x.items, y.items, func(a, b any) bool { return e.equal(a, b, depth+1) })
	case *dict:
		y, ok := b.(*dict)
		if !ok || len(x.keys) != len(y.keys) {
			return false
		}
		for _, k := range x.keys {
			v, there := y.get(k)
			if !there || !e.equal(x.at(k), v, depth+1) {
				return false
			}
		}
		return true
	case *object:
		y, ok := b.(*object)
		return ok && x == y
	case *macro:
		y, ok := b.(*macro)
		return ok && x == y
	}
	return false
}

// order compares as Python's < does: -1, 0 or 1.
func (e *exec) order(a, b any, depth int) int {
	e.step(1)
	if depth > maxNesting {
		e.fail("a value is nested too deeply")
	}
	switch x := a.(type) {
	case string:
		if y, ok := b.(string); ok {
			e.step(min(len(x), len(y)) >> 6)
			return strings.Compare(x, y)
		}
	case bool, int64, float64:
		n, whole := toInt(a)
		m, both := toInt(b)
		f, _ := toFloat(a)
		g, ok := toFloat(b)
		switch {
		case whole && both && n < m, !(whole && both) && ok && f < g:
			return -1
		case whole && both && n > m, !(whole && both) && ok && f > g:
			return 1
		case ok:
			return 0
		}
	case *list:
		if y, ok := b.(*list); ok {
			return slices.CompareFunc(x.items, y.items, func(a, b any) int { return e.order(a, b, depth+1) })
		}
	}
	for _, v := range []any{a, b} {
		if u, ok := v.(undefined); ok {
			e.fail("%s is undefined", u.what)
		}
	}
	e.fail("a %s and a %s have no order", kind(a), kind(b))
	return 0
}

func runes(s string) int64 { return int64(utf8.RuneCountInString(s)) }
