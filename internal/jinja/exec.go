package jinja

import (
	"context"
	"strings"
	"unicode/utf8"
)

// exec is one rendering.
type exec struct {
	ctx     context.Context
	globals map[string]any
	out     *strings.Builder
	steps   int
	bytes   int
	calls   int
	line    int // of what is evaluated, for errors
}

// scope holds the variables of a loop's round, a macro or the template itself.
type scope struct {
	vars  map[string]any
	outer *scope
}

// fail ends the rendering.
func (e *exec) fail(format string, args ...any) { failAt(e.line, format, args...) }

// step pays for n steps.
func (e *exec) step(n int) {
	before := e.steps
	if e.steps += n; e.steps > maxSteps {
		e.fail("the template takes too long: more than %d steps", maxSteps)
	}
	if before>>12 != e.steps>>12 && e.ctx.Err() != nil {
		panic(fault{context.Cause(e.ctx)})
	}
}

// grow pays for n bytes before they are made.
func (e *exec) grow(n int) {
	if n < 0 || n > maxBytes-e.bytes {
		e.fail("the template makes more than %d bytes", maxBytes)
	}
	e.bytes += n
	e.step(n >> 6)
}

// next says what a statement wants of the loop around it.
type next int

const (
	onward next = iota
	breaks
	continues
)

func (e *exec) run(body []stmt, s *scope) next {
	for _, one := range body {
		e.step(1)
		if n := e.statement(one, s); n != onward {
			return n
		}
	}
	return onward
}

func (e *exec) statement(one stmt, s *scope) next {
	switch one := one.(type) {
	case write:
		e.write(one.text)
	case print:
		e.write(e.text(e.eval(one.value, s)))
	case assign:
		e.line = one.line
		e.assign(one, e.eval(one.value, s), s)
	case capture:
		var v any = e.printed(one.body, s)
		if one.filters != nil {
			v = e.eval(one.filters(constant{v}), s)
		}
		e.line = one.line
		e.store(one.to, v, s)
	case filtered:
		e.write(e.text(e.eval(one.filters(constant{e.printed(one.body, s)}), s)))
	case branch:
		if truth(e.eval(one.cond, s)) {
			return e.run(one.then, s)
		}
		return e.run(one.orNo, s)
	case loop:
		return e.loop(one, s)
	case jump:
		if one.again {
			return continues
		}
		return breaks
	case defMacro:
		s.vars[one.name] = &macro{one, s}
	case with:
		inner := &scope{map[string]any{}, s}
		for i, name := range one.names {
			inner.vars[name] = e.eval(one.values[i], s)
		}
		return e.run(one.body, inner)
	}
	return onward
}

func (e *exec) write(text string) {
	e.grow(len(text))
	e.out.WriteString(text)
}

// printed is what statements print.
func (e *exec) printed(body []stmt, s *scope) string {
	outer := e.out
	e.out = &strings.Builder{}
	e.run(body, &scope{map[string]any{}, s})
	text := e.out.String()
	e.out = outer
	return text
}

func (e *exec) assign(a assign, v any, s *scope) {
	if len(a.to) == 1 {
		e.store(a.to[0], v, s)
		return
	}
	for i, one := range e.unpack(v, len(a.to)) {
		e.store(a.to[i], one, s)
	}
}

func (e *exec) unpack(v any, n int) []any {
	items := e.items(v)
	if len(items) != n {
		e.fail("%d values for %d names", len(items), n)
	}
	return items
}

func (e *exec) store(to target, v any, s *scope) {
	if to.attr == "" {
		s.vars[to.name] = v
		return
	}
	ns, ok := e.lookup(to.name, s).(*object)
	if !ok || !ns.open {
		e.fail("cannot assign to an attribute of '%s': it is no namespace", to.name)
	}
	e.grow(valueSize)
	ns.vars[to.attr] = v
}

func (e *exec) lookup(name string, s *scope) any {
	for ; s != nil; s = s.outer {
		if v, ok := s.vars[name]; ok {
			return v
		}
	}
	if v, ok := e.globals[name]; ok {
		return v
	}
	return undefined{"'" + name + "'"}
}

func (e *exec) loop(l loop, s *scope) next {
	e.line = l.line
	items := e.items(e.eval(l.in, s))
	if l.filter != nil {
		var kept []any
		for _, item := range items {
			e.step(1)
			inner := &scope{map[string]any{}, s}
			e.bind(l, item, inner)
			if truth(e.eval(l.filter, inner)) {
				kept = append(kept, item)
			}
		}
		e.grow(len(kept) * valueSize)
		items = kept
	}
	if len(items) == 0 {
		return e.run(l.none, s)
	}
	for i, item := range items {
		e.step(8) // what a round costs
		inner := &scope{map[string]any{"loop": loopState(items, i)}, s}
		e.line = l.line
		e.bind(l, item, inner)
		if e.run(l.body, inner) == breaks {
			break
		}
	}
	return onward
}

func (e *exec) bind(l loop, item any, s *scope) {
	if len(l.vars) == 1 {
		s.vars[l.vars[0]] = item
		return
	}
	for i, one := range e.unpack(item, len(l.vars)) {
		s.vars[l.vars[i]] = one
	}
}

// loopState is the variable "loop".
func loopState(items []any, i int) *object {
	o := &object{vars: map[string]any{
		"index": int64(i + 1), "index0": int64(i), "first": i == 0, "last": i == len(items)-1, "length": int64(len(items)),
		"revindex": int64(len(items) - i), "revindex0": int64(len(items) - i - 1),
		"cycle": function(func(e *exec, a args) any {
			if len(a.list) == 0 {
				e.fail("no values to cycle through")
			}
			return a.list[i%len(a.list)]
		}),
	}}
	if i > 0 {
		o.vars["previtem"] = items[i-1]
	}
	if i+1 < len(items) {
		o.vars["nextitem"] = items[i+1]
	}
	return o
}

// macro is a macro with the variables around it.
type macro struct {
	defMacro
	outer *scope
}

func (e *exec) callMacro(m *macro, a args) any {
	if e.calls++; e.calls > maxCalls {
		e.fail("macros call each other too deeply")
	}
	defer func() { e.calls-- }()
	inner := &scope{map[string]any{}, m.outer}
	if len(a.list) > len(m.params) {
		e.fail("macro '%s' takes at most %d arguments", m.name, len(m.params))
	}
	for i, p := range m.params {
		v, named := a.named[p.name]
		switch {
		case i < len(a.list):
			inner.vars[p.name] = a.list[i]
		case named:
			inner.vars[p.name] = v
		case p.def != nil:
			inner.vars[p.name] = e.eval(p.def, inner)
		default:
			inner.vars[p.name] = undefined{"parameter '" + p.name + "'"}
		}
	}
	for name := range a.named {
		if _, ok := inner.vars[name]; !ok {
			e.fail("macro '%s' takes no argument '%s'", m.name, name)
		}
	}
	outer := e.out
	e.out = &strings.Builder{}
	e.run(m.body, inner)
	text := e.out.String()
	e.out = outer
	return text
}

// eval evaluates an expression.
func (e *exec) eval(x expr, s *scope) any {
	e.step(1)
	switch x := x.(type) {
	case constant:
		return x.value
	case variable:
		e.line = x.line
		return e.lookup(x.name, s)
	case listOf:
		return e.list(e.all(x.items, s), x.tuple)
	case dictOf:
		d := newDict()
		for i, key := range x.keys {
			e.line = x.line
			d.set(e, e.eval(key, s), e.eval(x.values[i], s))
		}
		return d
	case attribute:
		of := e.eval(x.of, s)
		e.line = x.line
		return e.attribute(of, x.name)
	case index:
		of, at := e.eval(x.of, s), e.eval(x.at, s)
		e.line = x.line
		return e.index(of, at)
	case slice:
		return e.slice(x, s)
	case call:
		of, a := e.eval(x.of, s), e.args(x.args, s)
		e.line = x.line
		return e.call(of, a)
	case filter:
		of, a := e.eval(x.of, s), e.args(x.args, s)
		e.line = x.line
		return filters[x.name](e, of, a)
	case test:
		of, a := e.eval(x.of, s), e.args(x.args, s)
		e.line = x.line
		return tests[x.name](e, of, a) != x.negate
	case unary:
		of := e.eval(x.of, s)
		e.line = x.line
		return e.unary(x.op, of)
	case binary:
		return e.binary(x, s)
	case compare:
		return e.compare(x, s)
	case choice:
		switch {
		case truth(e.eval(x.cond, s)):
			return e.eval(x.then, s)
		case x.orNo != nil:
			return e.eval(x.orNo, s)
		}
		return undefined{"the value of a condition without else"}
	}
	e.fail("unknown expression")
	return nil
}

func (e *exec) all(list []expr, s *scope) []any {
	values := make([]any, len(list))
	for i, x := range list {
		values[i] = e.eval(x, s)
	}
	return values
}

// args are evaluated arguments.
type args struct {
	list  []any
	named map[string]any
}

func (e *exec) args(a arguments, s *scope) args {
	out := args{list: e.all(a.list, s)}
	if a.names != nil || a.moreNamed != nil {
		out.named = map[string]any{}
	}
	for i, name := range a.names {
		out.named[name] = e.eval(a.named[i], s)
	}
	if a.more != nil {
		more := e.items(e.eval(a.more, s))
		e.grow(valueSize * len(more))
		out.list = append(out.list, more...)
	}
	if a.moreNamed != nil {
		d, ok := e.eval(a.moreNamed, s).(*dict)
		if !ok {
			e.fail("the arguments after ** are no dict")
		}
		e.grow(valueSize * len(d.keys))
		for _, k := range d.keys {
			name, ok := k.(string)
			if _, twice := out.named[name]; !ok || twice {
				e.fail("the arguments after ** have the name %q, which is none or is there already", name)
			}
			out.named[name] = d.values[k]
		}
	}
	return out
}

// get is the argument at a place or with a name.
func (a args) get(i int, name string) (any, bool) {
	if i < len(a.list) {
		return a.list[i], true
	}
	v, ok := a.named[name]
	return v, ok
}

// function is what templates may call.
type function func(e *exec, a args) any

func (e *exec) call(of any, a args) any {
	switch f := of.(type) {
	case function:
		return f(e, a)
	case *macro:
		return e.callMacro(f, a)
	case undefined:
		e.fail("%s is undefined", f.what)
	}
	e.fail("a %s cannot be called", kind(of))
	return nil
}

func (e *exec) attribute(of any, name string) any {
	if u, ok := of.(undefined); ok {
		e.fail("%s is undefined", u.what)
	}
	if m := e.method(of, name); m != nil {
		return m
	}
	switch v := of.(type) {
	case *dict:
		if found, ok := v.get(name); ok {
			return found
		}
	case *object:
		if found, ok := v.vars[name]; ok {
			return found
		}
	}
	return undefined{"a " + kind(of) + "'s attribute '" + name + "'"}
}

func (e *exec) index(of, at any) any {
	switch v := of.(type) {
	case undefined:
		e.fail("%s is undefined", v.what)
	case *dict:
		if found, ok := v.get(at); ok {
			return found
		}
	case *list:
		if i, ok := toInt(at); ok {
			if i < 0 {
				i += int64(len(v.items))
			}
			if i >= 0 && i < int64(len(v.items)) {
				return v.items[i]
			}
			return undefined{"an item of a list"}
		}
	case string:
		if i, ok := toInt(at); ok {
			e.step(len(v) >> 4)
			n := int64(utf8.RuneCountInString(v))
			if i < 0 {
				i += n
			}
			if i >= 0 && i < n {
				return string([]rune(v)[i])
			}
			return undefined{"a character of a string"}
		}
	}
	if name, ok := at.(string); ok {
		return e.attribute(of, name)
	}
	return undefined{"an item of a " + kind(of)}
}

func (e *exec) slice(x slice, s *scope) any {
	of := e.eval(x.of, s)
	var parts [3]*int64
	for i, part := range []expr{x.from, x.to, x.step} {
		if part == nil {
			continue
		}
		v := e.eval(part, s)
		e.line = x.line
		n, ok := toInt(v)
		if !ok && v != nil {
			e.fail("a part of a slice is no number")
		}
		if ok {
			parts[i] = &n
		}
	}
	switch v := of.(type) {
	case string:
		e.grow(4 * len(v))
		runes := []rune(v)
		var b strings.Builder
		for _, i := range e.sliced(len(runes), parts) {
			b.WriteRune(runes[i])
		}
		return b.String()
	case *list:
		e.grow(valueSize * len(v.items))
		items := []any{}
		for _, i := range e.sliced(len(v.items), parts) {
			items = append(items, v.items[i])
		}
		return e.list(items, v.tuple)
	case undefined:
		e.fail("%s is undefined", v.what)
	}
	e.fail("a %s cannot be sliced", kind(of))
	return nil
}

// sliced lists the places of a slice of n items, as Python counts them.
func (e *exec) sliced(n int, parts [3]*int64) []int {
	step := int64(1)
	if parts[2] != nil {
		step = *parts[2]
	}
	if step == 0 {
		e.fail("the step of a slice is zero")
	}
	size := int64(n)
	low, high := int64(0), size
	if step < 0 {
		low, high = -1, size-1
	}
	bound := func(p *int64, def int64) int64 {
		if p == nil {
			return def
		}
		v := *p
		if v < 0 {
			v += size
		}
		return min(max(v, low), high)
	}
	from, to := bound(parts[0], low), bound(parts[1], high)
	if step < 0 {
		from, to = bound(parts[0], high), bound(parts[1], low)
	}
	var at []int
	for i := from; step > 0 && i < to || step < 0 && i > to; {
		at = append(at, int(i))
		next := i + step
		if step > 0 && next < i || step < 0 && next > i { // past the largest number
			break
		}
		i = next
	}
	e.grow(8 * len(at))
	return at
}
