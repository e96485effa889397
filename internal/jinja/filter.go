package jinja

import (
	"encoding/json"
	"html"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// filters are those of Jinja that templates of conversations use.
var filters map[string]func(e *exec, v any, a args) any

func init() {
	filters = map[string]func(e *exec, v any, a args) any{
		"abs": func(e *exec, v any, _ args) any {
			if n, ok := toInt(v); ok {
				return max(n, -n)
			}
			f, ok := v.(float64)
			if !ok {
				e.refuse("abs", v)
			}
			return math.Abs(f)
		},
		"attr":       func(e *exec, v any, a args) any { return e.index(v, a.text(e, 0, "name", "")) },
		"capitalize": func(e *exec, v any, _ args) any { return e.mapText(v, capitalize) },
		"count":      length,
		"d":          orDefault,
		"default":    orDefault,
		"dictsort":   dictSort,
		"e":          escape,
		"escape":     escape,
		"first": func(e *exec, v any, _ args) any {
			if items := e.items(v); len(items) > 0 {
				return items[0]
			}
			return undefined{"the first of no items"}
		},
		"float": func(e *exec, v any, a args) any {
			if f, ok := toFloat(v); ok {
				return f
			}
			if s, ok := v.(string); ok {
				if f, err := strconv.ParseFloat(strings.TrimSpace(s), 64); err == nil {
					return f
				}
			}
			if def, ok := a.get(0, "default"); ok {
				return def
			}
			return 0.0
		},
		"indent": indent,
		"int":    toWhole,
		"items": func(e *exec, v any, _ args) any {
			if d, ok := v.(*dict); ok {
				return e.pairs(d)
			}
			if _, ok := v.(undefined); !ok {
				e.refuse("items", v)
			}
			return e.list(nil, false)
		},
		"join": func(e *exec, v any, a args) any {
			if name, ok := a.get(1, "attribute"); ok {
				v = e.mapped(v, name, nil)
			}
			return e.join(v, a.text(e, 0, "d", ""))
		},
		"last": func(e *exec, v any, _ args) any {
			if items := e.items(v); len(items) > 0 {
				return items[len(items)-1]
			}
			return undefined{"the last of no items"}
		},
		"length": length,
		"list":   func(e *exec, v any, _ args) any { return e.list(slices.Clone(e.items(v)), false) },
		"lower":  func(e *exec, v any, _ args) any { return e.mapText(v, strings.ToLower) },
		"map": func(e *exec, v any, a args) any {
			if name, ok := a.named["attribute"]; ok {
				def, there := a.named["default"]
				if there {
					return e.mapped(v, name, &def)
				}
				return e.mapped(v, name, nil)
			}
			f := filters[a.text(e, 0, "", "")]
			if f == nil {
				e.fail("map takes an attribute, or the name of a filter")
			}
			var items []any
			for _, item := range e.items(v) {
				e.step(1)
				items = append(items, f(e, item, args{list: a.list[1:], named: a.named}))
			}
			return e.list(items, false)
		},
		"max":        func(e *exec, v any, _ args) any { return e.extreme(v, 1) },
		"min":        func(e *exec, v any, _ args) any { return e.extreme(v, -1) },
		"reject":     func(e *exec, v any, a args) any { return e.selected(v, a, false, false) },
		"rejectattr": func(e *exec, v any, a args) any { return e.selected(v, a, true, false) },
		"replace": func(e *exec, v any, a args) any {
			return e.replace(e.text(v), a)
		},
		"reverse": func(e *exec, v any, _ args) any {
			items := slices.Clone(e.items(v))
			slices.Reverse(items)
			if _, ok := v.(string); ok {
				return e.join(e.list(items, false), "")
			}
			return e.list(items, false)
		},
		"round":      round,
		"safe":       func(e *exec, v any, _ args) any { return e.text(v) },
		"select":     func(e *exec, v any, a args) any { return e.selected(v, a, false, true) },
		"selectattr": func(e *exec, v any, a args) any { return e.selected(v, a, true, true) },
		"sort":       sortItems,
		"string":     func(e *exec, v any, _ args) any { return e.text(v) },
		"sum": func(e *exec, v any, a args) any {
			if name, ok := a.get(0, "attribute"); ok {
				v = e.mapped(v, name, nil)
			}
			var total any = int64(0)
			for _, item := range e.items(v) {
				total = e.plus(total, item)
			}
			return total
		},
		"title":  func(e *exec, v any, _ args) any { return e.mapText(v, title) },
		"tojson": toJSON,
		"trim": func(e *exec, v any, a args) any {
			return e.mapText(v, func(s string) string { return trim(e, s, a, strings.Trim, strings.TrimSpace) })
		},
		"unique": func(e *exec, v any, _ args) any {
			var items []any
			for _, item := range e.items(v) {
				if !slices.ContainsFunc(items, func(have any) bool { return e.equal(have, item, 0) }) {
					items = append(items, item)
				}
			}
			return e.list(items, false)
		},
		"upper": func(e *exec, v any, _ args) any { return e.mapText(v, strings.ToUpper) },
	}
}

// text is an argument that is a string.
func (a args) text(e *exec, i int, name, def string) string {
	v, ok := a.get(i, name)
	if !ok {
		return def
	}
	s, ok := v.(string)
	if !ok {
		e.fail("an argument is a %s instead of a string", kind(v))
	}
	return s
}

// number is an argument that is a whole number.
func (a args) number(e *exec, i int, name string, def int64) int64 {
	v, ok := a.get(i, name)
	if !ok || v == nil {
		return def
	}
	n, ok := toInt(v)
	if !ok {
		e.fail("an argument is a %s instead of a number", kind(v))
	}
	return n
}

// mapText makes another text of one, at most three times as long.
func (e *exec) mapText(v any, f func(string) string) string {
	s := e.text(v)
	e.grow(3 * len(s))
	return f(s)
}

func capitalize(s string) string {
	out := []rune(strings.ToLower(s))
	if len(out) > 0 {
		out[0] = unicode.ToUpper(out[0])
	}
	return string(out)
}

func title(s string) string {
	inWord := false
	return strings.Map(func(r rune) rune {
		was := inWord
		inWord = unicode.IsLetter(r) || unicode.IsDigit(r) || r == '\''
		if was {
			return unicode.ToLower(r)
		}
		return unicode.ToUpper(r)
	}, s)
}

func length(e *exec, v any, _ args) any {
	switch v := v.(type) {
	case string:
		e.step(len(v) >> 6)
		return runes(v)
	case undefined:
		return int64(0)
	case *list, *dict:
		return int64(len(e.items(v)))
	}
	e.refuse("length", v)
	return nil
}

func orDefault(_ *exec, v any, a args) any {
	falsy, _ := a.get(1, "boolean")
	if _, missing := v.(undefined); missing || truth(falsy) && !truth(v) {
		if def, ok := a.get(0, "default_value"); ok {
			return def
		}
		return ""
	}
	return v
}

func dictSort(e *exec, v any, a args) any {
	d, ok := v.(*dict)
	if !ok {
		e.refuse("dictsort", v)
	}
	by := map[string]int{"key": 0, "value": 1}[a.text(e, 1, "by", "key")]
	return e.sorted(e.pairs(d).items, a, 2, func(item any) any { return item.(*list).items[by] }, a.flag(0, "case_sensitive"))
}

func (a args) flag(i int, name string) bool {
	v, _ := a.get(i, name)
	return truth(v)
}

func sortItems(e *exec, v any, a args) any {
	by := func(item any) any { return item }
	if name, ok := a.get(2, "attribute"); ok && name != nil {
		by = func(item any) any { return e.path(item, name) }
	}
	return e.sorted(e.items(v), a, 0, by, a.flag(1, "case_sensitive"))
}

func (e *exec) sorted(items []any, a args, reverse int, by func(any) any, cased bool) any {
	folded := func(v any) any {
		if s, ok := by(v).(string); ok && !cased {
			return e.mapText(s, strings.ToLower)
		}
		return by(v)
	}
	keys := make(map[int]any, len(items))
	at := make([]int, len(items))
	for i, item := range items {
		keys[i], at[i] = folded(item), i
	}
	sign := 1
	if a.flag(reverse, "reverse") {
		sign = -1
	}
	slices.SortStableFunc(at, func(i, j int) int { return sign * e.order(keys[i], keys[j], 0) })
	out := make([]any, len(items))
	for i, from := range at {
		out[i] = items[from]
	}
	return e.list(out, false)
}

func escape(e *exec, v any, _ args) any {
	s := e.text(v)
	e.grow(5 * len(s))
	return html.EscapeString(s)
}

func indent(e *exec, v any, a args) any {
	s := e.text(v)
	by, ok := a.get(0, "width")
	prefix, isText := by.(string)
	if !isText {
		n := int64(4)
		if ok {
			n = a.number(e, 0, "width", 4)
		}
		prefix = strings.Repeat(" ", int(min(max(n, 0), 1000)))
	}
	e.grow(len(s) + (strings.Count(s, "\n")+1)*len(prefix))
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		if (i > 0 || a.flag(1, "first")) && (line != "" || a.flag(2, "blank")) {
			lines[i] = prefix + line
		}
	}
	return strings.Join(lines, "\n")
}

func toWhole(e *exec, v any, a args) any {
	if n, ok := toInt(v); ok {
		return n
	}
	f, ok := v.(float64)
	if s, isText := v.(string); isText {
		s = strings.TrimSpace(s)
		if n, err := strconv.ParseInt(s, 10, 64); err == nil {
			return n
		}
		var err error
		f, err = strconv.ParseFloat(s, 64)
		ok = err == nil
	}
	if ok && math.Abs(f) < math.MaxInt64 {
		return int64(f)
	}
	return a.number(e, 0, "default", 0)
}

func round(e *exec, v any, a args) any {
	f, ok := toFloat(v)
	if !ok {
		e.refuse("round", v)
	}
	scale := math.Pow(10, float64(a.number(e, 0, "precision", 0)))
	how, ok := map[string]func(float64) float64{"common": math.RoundToEven, "ceil": math.Ceil, "floor": math.Floor}[a.text(e, 1, "method", "common")]
	if !ok {
		e.fail("round knows the methods common, ceil and floor")
	}
	return how(f*scale) / scale
}

// path is an attribute, or one of an attribute: "a.b".
func (e *exec) path(v, name any) any {
	s, ok := name.(string)
	if !ok {
		return e.index(v, name)
	}
	for part := range strings.SplitSeq(s, ".") {
		if n, err := strconv.ParseInt(part, 10, 64); err == nil {
			v = e.index(v, n)
			continue
		}
		v = e.index(v, part)
	}
	return v
}

func (e *exec) mapped(v, name any, def *any) *list {
	var items []any
	for _, item := range e.items(v) {
		e.step(1)
		one := e.path(item, name)
		if _, missing := one.(undefined); missing && def != nil {
			one = *def
		}
		items = append(items, one)
	}
	return e.list(items, false)
}

// selected keeps the items that pass a test, or that do not; of their attribute if it goes by that.
func (e *exec) selected(v any, a args, byAttr, keep bool) any {
	rest := a.list
	var attr any
	if byAttr {
		if len(rest) == 0 {
			e.fail("the name of an attribute is missing")
		}
		attr, rest = rest[0], rest[1:]
	}
	pass := func(_ *exec, v any, _ args) bool { return truth(v) }
	if len(rest) > 0 {
		word, _ := rest[0].(string)
		if pass = tests[word]; pass == nil {
			e.fail("there is no test named '%s'", word)
		}
		rest = rest[1:]
	}
	var items []any
	for _, item := range e.items(v) {
		e.step(1)
		of := item
		if byAttr {
			of = e.path(item, attr)
		}
		if pass(e, of, args{list: rest}) == keep {
			items = append(items, item)
		}
	}
	return e.list(items, false)
}

func (e *exec) extreme(v any, sign int) any {
	items := e.items(v)
	if len(items) == 0 {
		return undefined{"the extreme of no items"}
	}
	best := items[0]
	for _, item := range items[1:] {
		if e.order(item, best, 0)*sign > 0 {
			best = item
		}
	}
	return best
}

func (e *exec) join(v any, sep string) string {
	items := e.items(v)
	var b strings.Builder
	for i, item := range items {
		s := e.text(item)
		e.grow(len(s) + len(sep))
		if i > 0 {
			b.WriteString(sep)
		}
		b.WriteString(s)
	}
	return b.String()
}

// toJSON writes JSON as Jinja does: keys in order, safe within HTML.
func toJSON(e *exec, v any, a args) any {
	var b strings.Builder
	indent := -1
	if n, ok := a.get(0, "indent"); ok && n != nil {
		indent = int(min(max(a.number(e, 0, "indent", 0), 0), 16))
	}
	e.json(&b, v, indent, 0)
	return b.String()
}

func (e *exec) json(b *strings.Builder, v any, indent, depth int) {
	if depth > maxNesting {
		e.fail("a value is nested too deeply")
	}
	put := func(s string) {
		e.grow(len(s))
		b.WriteString(s)
	}
	line := func(depth int) {
		if indent >= 0 {
			put("\n" + strings.Repeat(" ", indent*depth))
		}
	}
	comma := ", "
	if indent >= 0 {
		comma = ","
	}
	switch v := v.(type) {
	case nil:
		put("null")
	case bool:
		put(strconv.FormatBool(v))
	case int64:
		put(strconv.FormatInt(v, 10))
	case float64:
		put(floatText(v))
	case string:
		e.grow(len(v))
		put(jsonText(v))
	case *list:
		if len(v.items) == 0 {
			put("[]")
			return
		}
		put("[")
		for i, item := range v.items {
			if i > 0 {
				put(comma)
			}
			line(depth + 1)
			e.json(b, item, indent, depth+1)
		}
		line(depth)
		put("]")
	case *dict:
		if len(v.keys) == 0 {
			put("{}")
			return
		}
		keys := slices.Clone(v.keys)
		slices.SortStableFunc(keys, func(x, y any) int { return e.order(x, y, 0) })
		put("{")
		for i, k := range keys {
			if i > 0 {
				put(comma)
			}
			line(depth + 1)
			put(jsonText(e.text(k)) + ": ")
			e.json(b, v.at(k), indent, depth+1)
		}
		line(depth)
		put("}")
	default:
		e.refuse("tojson", v)
	}
}

// jsonText writes a string with nothing but ASCII, and without what means something in HTML.
func jsonText(s string) string {
	data, _ := json.Marshal(s) // it escapes <, > and &
	var b strings.Builder
	for _, r := range string(data) {
		switch {
		case r == '\'':
			b.WriteString(`\u0027`)
		case r < 0x7f:
			b.WriteRune(r)
		case r < 0x10000:
			b.WriteString(`\u` + hex(r, 4))
		default:
			r -= 0x10000
			b.WriteString(`\u` + hex(0xd800+r>>10, 4) + `\u` + hex(0xdc00+r&0x3ff, 4))
		}
	}
	return b.String()
}
