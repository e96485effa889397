package jinja

import (
	"slices"
	"strings"
	"unicode"
)

// functions are those that every template may call.
var functions = map[string]function{
	"raise_exception": func(e *exec, a args) any {
		msg, _ := a.get(0, "message")
		panic(fault{&Error{Msg: e.text(msg)}})
	},
	"range": func(e *exec, a args) any {
		from, to, step := int64(0), a.number(e, 0, "", 0), int64(1)
		if len(a.list) > 1 {
			from, to, step = to, a.number(e, 1, "", 0), a.number(e, 2, "", 1)
		}
		if step == 0 {
			e.fail("the step of a range is zero")
		}
		items := []any{}
		for i := from; step > 0 && i < to || step < 0 && i > to; {
			if len(items) >= maxRange {
				e.fail("a range has more than %d numbers", maxRange)
			}
			items = append(items, i)
			n := i + step
			if (n > i) != (step > 0) { // past the largest number
				break
			}
			i = n
		}
		return e.list(items, false)
	},
	"namespace": func(e *exec, a args) any {
		o := &object{vars: map[string]any{}, open: true}
		for _, v := range a.list {
			if d, ok := v.(*dict); ok {
				for _, k := range d.keys {
					o.vars[e.text(k)] = d.at(k)
				}
			}
		}
		for name, v := range a.named {
			o.vars[name] = v
		}
		return o
	},
	"dict": func(e *exec, a args) any {
		d := newDict()
		for _, v := range a.list {
			from, ok := v.(*dict)
			if !ok {
				e.refuse("dict", v)
			}
			for _, k := range from.keys {
				d.set(e, k, from.at(k))
			}
		}
		for _, name := range sortedKeys(a.named) {
			d.set(e, name, a.named[name])
		}
		return d
	},
}

// method is what a value can be asked to do, nil if it has no such method. Those of Python that
// change a value are not here, as in Jinja's immutable sandbox.
func (e *exec) method(v any, name string) function {
	switch v := v.(type) {
	case string:
		if m := stringMethods[name]; m != nil {
			return func(e *exec, a args) any { return m(e, v, a) }
		}
	case *dict:
		if m := dictMethods[name]; m != nil {
			return func(e *exec, a args) any { return m(e, v, a) }
		}
	case *list:
		if m := listMethods[name]; m != nil {
			return func(e *exec, a args) any { return m(e, v, a) }
		}
	}
	return nil
}

var dictMethods = map[string]func(e *exec, d *dict, a args) any{
	"items": func(e *exec, d *dict, _ args) any { return e.pairs(d) },
	"keys":  func(e *exec, d *dict, _ args) any { return e.list(slices.Clone(d.keys), false) },
	"values": func(e *exec, d *dict, _ args) any {
		items := make([]any, len(d.keys))
		for i, k := range d.keys {
			items[i] = d.at(k)
		}
		return e.list(items, false)
	},
	"get": func(e *exec, d *dict, a args) any {
		k, ok := a.get(0, "key")
		if !ok {
			e.fail("get takes a key")
		}
		if v, ok := d.get(k); ok {
			return v
		}
		def, _ := a.get(1, "default")
		return def
	},
	"copy": func(_ *exec, d *dict, _ args) any { return d }, // nothing changes it
}

func (e *exec) pairs(d *dict) *list {
	items := make([]any, len(d.keys))
	for i, k := range d.keys {
		items[i] = e.list([]any{k, d.at(k)}, true)
	}
	return e.list(items, false)
}

var listMethods = map[string]func(e *exec, l *list, a args) any{
	"count": func(e *exec, l *list, a args) any {
		v, _ := a.get(0, "value")
		n := int64(0)
		for _, item := range l.items {
			if e.equal(item, v, 0) {
				n++
			}
		}
		return n
	},
	"index": func(e *exec, l *list, a args) any {
		v, _ := a.get(0, "value")
		for i, item := range l.items {
			if e.equal(item, v, 0) {
				return int64(i)
			}
		}
		e.fail("a value is not in the list")
		return nil
	},
}

var stringMethods map[string]func(e *exec, s string, a args) any

func init() {
	plainly := func(f func(string) string) func(e *exec, s string, a args) any {
		return func(e *exec, s string, _ args) any { return e.mapText(s, f) }
	}
	cut := func(set func(s, chars string) string, space func(string) string) func(e *exec, s string, a args) any {
		return func(e *exec, s string, a args) any { return trim(e, s, a, set, space) }
	}
	every := func(is func(rune) bool) func(e *exec, s string, a args) any {
		return func(e *exec, s string, _ args) any {
			e.step(len(s) >> 4)
			return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !is(r) })
		}
	}
	stringMethods = map[string]func(e *exec, s string, a args) any{
		"strip":      cut(strings.Trim, strings.TrimSpace),
		"lstrip":     cut(strings.TrimLeft, func(s string) string { return strings.TrimLeftFunc(s, unicode.IsSpace) }),
		"rstrip":     cut(strings.TrimRight, func(s string) string { return strings.TrimRightFunc(s, unicode.IsSpace) }),
		"upper":      plainly(strings.ToUpper),
		"lower":      plainly(strings.ToLower),
		"title":      plainly(title),
		"capitalize": plainly(capitalize),
		"startswith": func(e *exec, s string, a args) any { return affix(e, s, a, strings.HasPrefix) },
		"endswith":   func(e *exec, s string, a args) any { return affix(e, s, a, strings.HasSuffix) },
		"removeprefix": func(e *exec, s string, a args) any {
			return strings.TrimPrefix(s, a.text(e, 0, "prefix", ""))
		},
		"removesuffix": func(e *exec, s string, a args) any {
			return strings.TrimSuffix(s, a.text(e, 0, "suffix", ""))
		},
		"split":  func(e *exec, s string, a args) any { return e.split(s, a, false) },
		"rsplit": func(e *exec, s string, a args) any { return e.split(s, a, true) },
		"splitlines": func(e *exec, s string, _ args) any {
			lines := strings.Split(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(strings.TrimSuffix(s, "\n")), "\n")
			if s == "" {
				lines = nil
			}
			return e.texts(lines)
		},
		"replace": func(e *exec, s string, a args) any { return e.replace(s, a) },
		"join": func(e *exec, s string, a args) any {
			v, ok := a.get(0, "iterable")
			if !ok {
				e.fail("join takes a list")
			}
			return e.join(v, s)
		},
		"find": func(e *exec, s string, a args) any {
			e.step(len(s) >> 4)
			at := strings.Index(s, a.text(e, 0, "sub", ""))
			if at < 0 {
				return int64(-1)
			}
			return runes(s[:at])
		},
		"count": func(e *exec, s string, a args) any {
			e.step(len(s) >> 4)
			return int64(strings.Count(s, a.text(e, 0, "sub", "")))
		},
		"isdigit": every(unicode.IsDigit),
		"isalpha": every(unicode.IsLetter),
		"isalnum": every(func(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }),
		"isspace": every(unicode.IsSpace),
		"isupper": func(_ *exec, s string, _ args) any { return strings.ToUpper(s) == s && strings.ToLower(s) != s },
		"islower": func(_ *exec, s string, _ args) any { return strings.ToLower(s) == s && strings.ToUpper(s) != s },
	}
}

// trim cuts the characters that the argument names off, white space without one.
func trim(e *exec, s string, a args, set func(s, chars string) string, space func(string) string) string {
	e.step(len(s) >> 6)
	if v, ok := a.get(0, "chars"); !ok || v == nil {
		return space(s)
	}
	return set(s, a.text(e, 0, "chars", ""))
}

// affix says whether a string begins, or ends, with one of those that the argument names.
func affix(e *exec, s string, a args, has func(s, affix string) bool) bool {
	v, _ := a.get(0, "prefix")
	if l, ok := v.(*list); ok {
		return slices.ContainsFunc(l.items, func(one any) bool { return affix(e, s, args{list: []any{one}}, has) })
	}
	return has(s, a.text(e, 0, "prefix", ""))
}

func (e *exec) texts(list []string) any {
	items := make([]any, len(list))
	for i, s := range list {
		items[i] = s
	}
	return e.list(items, false)
}

// split is Python's: at white space without a separator, at most n times.
func (e *exec) split(s string, a args, right bool) any {
	e.grow(2 * len(s))
	n := int(min(a.number(e, 1, "maxsplit", -1), int64(len(s))))
	v, ok := a.get(0, "sep")
	if !ok || v == nil {
		fields := strings.Fields(s)
		if n < 0 || n >= len(fields) {
			return e.texts(fields)
		}
		e.fail("split at white space takes no number")
	}
	sep := a.text(e, 0, "sep", "")
	if sep == "" {
		e.fail("the separator is empty")
	}
	if !right || n < 0 {
		e.grow(valueSize * strings.Count(s, sep))
		if n >= 0 {
			n++
		}
		return e.texts(strings.SplitN(s, sep, n))
	}
	var parts []string
	for ; n > 0; n-- {
		at := strings.LastIndex(s, sep)
		if at < 0 {
			break
		}
		e.step(1 + len(s[at:])>>6)
		parts, s = append(parts, s[at+len(sep):]), s[:at]
	}
	parts = append(parts, s)
	slices.Reverse(parts)
	return e.texts(parts)
}

func (e *exec) replace(s string, a args) string {
	from, to := a.text(e, 0, "old", ""), a.text(e, 1, "new", "")
	n := int(min(a.number(e, 2, "count", -1), int64(len(s))+1))
	e.step(len(s) >> 4)
	times := strings.Count(s, from)
	if n >= 0 {
		times = min(times, n)
	}
	e.grow(len(s) + times*len(to))
	return strings.Replace(s, from, to, n)
}
