package jinja

import "slices"

// parser makes statements of pieces. Within a piece it reads tokens.
type parser struct {
	pieces []piece
	at     int
	tokens []token
	depth  int
	loops  int // around what is read
}

// body reads statements up to a tag that is one of ends, whose word it gives; its tokens behind
// the word are still to be read.
func (p *parser) body(line int, ends ...string) ([]stmt, string) {
	p.deeper(line)
	defer p.shallower()
	var list []stmt
	for p.at < len(p.pieces) {
		one := p.pieces[p.at]
		p.at++
		p.tokens = one.tokens
		switch one.kind {
		case plain:
			list = append(list, write{one.text})
		case output:
			list = append(list, print{p.tuple()})
			p.finish()
		default:
			t := p.next()
			if t.kind != name {
				failAt(t.line, "a tag begins with a word")
			}
			if slices.Contains(ends, t.text) {
				return list, t.text
			}
			if s := p.statement(t); s != nil {
				list = append(list, s)
			}
		}
	}
	if ends != nil {
		failAt(line, "a block does not end: '%s' is missing", ends[len(ends)-1])
	}
	return list, ""
}

func (p *parser) deeper(line int) {
	if p.depth++; p.depth > maxNesting {
		failAt(line, "it is nested too deeply")
	}
}

func (p *parser) shallower() { p.depth-- }

func (p *parser) statement(word token) stmt {
	switch word.text {
	case "set":
		return p.set(word.line)
	case "if":
		return p.branch(word.line)
	case "for":
		return p.loop(word.line)
	case "break", "continue":
		if p.loops == 0 {
			failAt(word.line, "'%s' outside of a loop", word.text)
		}
		p.finish()
		return jump{word.text == "continue"}
	case "macro":
		return p.macro(word.line)
	case "with":
		return p.with(word.line)
	case "filter":
		f := p.filterTag()
		body := p.block(word.line, "endfilter")
		return filtered{body, f}
	case "generation", "endgeneration": // marks what a model has said; it prints nothing
		p.finish()
		return nil
	}
	failAt(word.line, "the tag '%s' is not supported", word.text)
	return nil
}

// block reads a body up to its one end.
func (p *parser) block(line int, end string) []stmt {
	body, _ := p.body(line, end)
	if t := p.peek(); t.kind == name { // the name of a macro may be said again
		p.next()
	}
	p.finish()
	return body
}

func (p *parser) set(line int) stmt {
	to := []target{p.target()}
	for p.take(",") {
		to = append(to, p.target())
	}
	if p.take("=") {
		s := assign{line, to, p.tuple()}
		p.finish()
		return s
	}
	if len(to) > 1 {
		failAt(line, "a block is assigned to one name")
	}
	var filters func(expr) expr
	if p.is("|") {
		filters = p.filterChain()
	}
	p.finish()
	return capture{line, to[0], p.block(line, "endset"), filters}
}

func (p *parser) target() target {
	to := target{name: p.name()}
	if p.take(".") {
		to.attr = p.name()
	}
	return to
}

func (p *parser) branch(line int) stmt {
	b := branch{cond: p.tuple()}
	p.finish()
	var ends string
	b.then, ends = p.body(line, "elif", "else", "endif")
	switch ends {
	case "elif":
		p.deeper(line)
		b.orNo = []stmt{p.branch(line)}
		p.shallower()
		return b
	case "else":
		p.finish()
		b.orNo, _ = p.body(line, "endif")
	}
	p.finish()
	return b
}

func (p *parser) loop(line int) stmt {
	paren := p.take("(")
	l := loop{line: line, vars: []string{p.name()}}
	for p.take(",") {
		if p.is(")") || p.isWord("in") {
			break
		}
		l.vars = append(l.vars, p.name())
	}
	if paren {
		p.want(")")
	}
	p.wantWord("in")
	l.in = p.untilIf()
	if p.takeWord("if") {
		l.filter = p.expr()
	}
	if p.isWord("recursive") {
		failAt(line, "loops that call themselves are not supported")
	}
	p.finish()
	p.loops++
	var ends string
	l.body, ends = p.body(line, "else", "endfor")
	p.loops--
	if ends == "else" {
		p.finish()
		l.none, _ = p.body(line, "endfor")
	}
	p.finish()
	return l
}

// untilIf reads what a loop goes over: an "if" behind it is the loop's.
func (p *parser) untilIf() expr {
	first := p.or()
	if !p.is(",") {
		return first
	}
	items := []expr{first}
	for p.take(",") {
		items = append(items, p.or())
	}
	return listOf{items, true}
}

func (p *parser) macro(line int) stmt {
	m := defMacro{name: p.name()}
	p.want("(")
	for !p.take(")") {
		if len(m.params) > 0 {
			p.want(",")
		}
		one := param{name: p.name()}
		if p.take("=") {
			one.def = p.expr()
		}
		m.params = append(m.params, one)
	}
	p.finish()
	loops := p.loops
	p.loops = 0
	m.body = p.block(line, "endmacro")
	p.loops = loops
	return m
}

func (p *parser) with(line int) stmt {
	var w with
	for p.peek().kind != end {
		if w.names != nil {
			p.want(",")
		}
		w.names = append(w.names, p.name())
		p.want("=")
		w.values = append(w.values, p.expr())
	}
	p.finish()
	w.body = p.block(line, "endwith")
	return w
}

func (p *parser) filterTag() func(expr) expr {
	f := p.oneFilter()
	if p.is("|") {
		first, more := f, p.filterChain()
		f = func(of expr) expr { return more(first(of)) }
	}
	p.finish()
	return f
}

func (p *parser) filterChain() func(expr) expr {
	var chain []func(expr) expr
	for p.take("|") {
		chain = append(chain, p.oneFilter())
	}
	return func(of expr) expr {
		for _, f := range chain {
			of = f(of)
		}
		return of
	}
}

func (p *parser) oneFilter() func(expr) expr {
	t := p.next()
	if t.kind != name || filters[t.text] == nil {
		failAt(t.line, "there is no filter named '%s'", t.text)
	}
	var args arguments
	if p.take("(") {
		args = p.arguments()
	}
	return func(of expr) expr { return filter{t.line, t.text, of, args} }
}

// tuple reads an expression, or several with commas.
func (p *parser) tuple() expr {
	first := p.expr()
	if !p.is(",") {
		return first
	}
	items := []expr{first}
	for p.take(",") && p.peek().kind != end {
		items = append(items, p.expr())
	}
	return listOf{items, true}
}

func (p *parser) expr() expr {
	p.deeper(p.peek().line)
	defer p.shallower()
	e := p.or()
	for p.takeWord("if") {
		c := choice{cond: p.or(), then: e}
		if p.takeWord("else") {
			c.orNo = p.expr()
		}
		e = c
	}
	return e
}

func (p *parser) or() expr {
	e := p.and()
	for p.isWord("or") {
		line := p.next().line
		e = binary{line, "or", e, p.and()}
	}
	return e
}

func (p *parser) and() expr {
	e := p.not()
	for p.isWord("and") {
		line := p.next().line
		e = binary{line, "and", e, p.not()}
	}
	return e
}

func (p *parser) not() expr {
	if !p.isWord("not") {
		return p.compare()
	}
	line := p.next().line
	p.deeper(line)
	defer p.shallower()
	return unary{line, "not", p.not()}
}

func (p *parser) compare() expr {
	first := p.sum()
	c := compare{line: p.peek().line, first: first}
	for {
		t := p.peek()
		o := ""
		switch {
		case t.kind == op && slices.Contains([]string{"==", "!=", "<", "<=", ">", ">="}, t.text), t.kind == name && t.text == "in":
			o = p.next().text
		case t.kind == name && t.text == "not" && p.tokens[1].kind == name && p.tokens[1].text == "in":
			p.next()
			p.next()
			o = "not in"
		}
		if o == "" {
			break
		}
		c.ops, c.rest = append(c.ops, o), append(c.rest, p.sum())
	}
	if c.ops == nil {
		return first
	}
	return c
}

// level reads operands of equal rank with operators between them.
func (p *parser) level(next func() expr, ops ...string) expr {
	e := next()
	for p.peek().kind == op && slices.Contains(ops, p.peek().text) {
		t := p.next()
		e = binary{t.line, t.text, e, next()}
	}
	return e
}

func (p *parser) sum() expr    { return p.level(p.concat, "+", "-") }
func (p *parser) concat() expr { return p.level(p.product, "~") }
func (p *parser) product() expr {
	return p.level(p.power, "*", "/", "//", "%")
}
func (p *parser) power() expr { return p.level(func() expr { return p.unary(true) }, "**") }

func (p *parser) unary(filters bool) expr {
	t := p.peek()
	var e expr
	if t.kind == op && (t.text == "-" || t.text == "+") {
		p.next()
		p.deeper(t.line)
		e = unary{t.line, t.text, p.unary(false)}
		p.shallower()
	} else {
		e = p.primary()
	}
	e = p.postfix(e)
	if filters {
		e = p.behind(e)
	}
	return e
}

func (p *parser) primary() expr {
	t := p.next()
	switch t.kind {
	case name:
		switch t.text {
		case "true", "True":
			return constant{true}
		case "false", "False":
			return constant{false}
		case "none", "None":
			return constant{nil}
		}
		return variable{t.line, t.text}
	case text:
		s := t.text
		for p.peek().kind == text {
			s += p.next().text
		}
		return constant{s}
	case whole:
		return constant{t.whole}
	case float:
		return constant{t.float}
	case op:
		switch t.text {
		case "(":
			return p.parenthesis()
		case "[":
			var items []expr
			for !p.take("]") {
				if items != nil {
					p.want(",")
					if p.take("]") {
						break
					}
				}
				items = append(items, p.expr())
			}
			return listOf{items, false}
		case "{":
			return p.dict(t.line)
		}
	}
	failAt(t.line, "unexpected %s", t.what())
	return nil
}

func (p *parser) parenthesis() expr {
	if p.take(")") {
		return listOf{nil, true}
	}
	e := p.expr()
	if !p.is(",") {
		p.want(")")
		return e
	}
	items := []expr{e}
	for p.take(",") && !p.is(")") {
		items = append(items, p.expr())
	}
	p.want(")")
	return listOf{items, true}
}

func (p *parser) dict(line int) expr {
	d := dictOf{line: line}
	for !p.take("}") {
		if d.keys != nil {
			p.want(",")
			if p.take("}") {
				break
			}
		}
		d.keys = append(d.keys, p.expr())
		p.want(":")
		d.values = append(d.values, p.expr())
	}
	return d
}

// postfix reads attributes, indices and calls.
func (p *parser) postfix(e expr) expr {
	for n := 0; ; n++ {
		t := p.peek()
		if n > maxNesting {
			failAt(t.line, "it is nested too deeply")
		}
		switch {
		case p.take("."):
			if at := p.peek(); at.kind == whole {
				p.next()
				e = index{t.line, e, constant{at.whole}}
			} else {
				e = attribute{t.line, e, p.name()}
			}
		case p.take("["):
			e = p.subscript(t.line, e)
		case p.take("("):
			e = call{t.line, e, p.arguments()}
		default:
			return e
		}
	}
}

func (p *parser) subscript(line int, of expr) expr {
	var parts [3]expr
	colons := 0
	for !p.take("]") {
		switch {
		case p.take(":"):
			if colons++; colons > 2 {
				failAt(line, "a slice has too many parts")
			}
		case parts[colons] != nil:
			failAt(line, "']' is missing")
		default:
			parts[colons] = p.expr()
		}
	}
	switch {
	case colons > 0:
		return slice{line, of, parts[0], parts[1], parts[2]}
	case parts[0] == nil:
		failAt(line, "an index is missing")
	}
	return index{line, of, parts[0]}
}

// behind reads filters and tests, and calls of what they give.
func (p *parser) behind(e expr) expr {
	for n := 0; ; n++ {
		t := p.peek()
		if n > maxNesting {
			failAt(t.line, "it is nested too deeply")
		}
		switch {
		case p.take("|"):
			e = p.oneFilter()(e)
		case p.takeWord("is"):
			e = p.test(t.line, e)
		case p.take("("):
			e = call{t.line, e, p.arguments()}
		default:
			return e
		}
	}
}

func (p *parser) test(line int, of expr) expr {
	t := test{line: line, of: of, negate: p.takeWord("not")}
	t.name = p.name()
	if tests[t.name] == nil {
		failAt(line, "there is no test named '%s'", t.name)
	}
	switch next := p.peek(); {
	case p.take("("):
		t.args = p.arguments()
	case next.kind == name && !slices.Contains([]string{"else", "or", "and", "if", "is", "in", "not"}, next.text),
		next.kind == text, next.kind == whole, next.kind == float, next.kind == op && (next.text == "[" || next.text == "{"):
		t.args.list = []expr{p.postfix(p.primary())}
	}
	return t
}

// arguments reads those of a call, whose parenthesis is open.
func (p *parser) arguments() arguments {
	var a arguments
	for first := true; !p.take(")"); first = false {
		if !first {
			p.want(",")
			if p.take(")") {
				break
			}
		}
		t := p.peek()
		switch {
		case t.kind == name && p.tokens[1].kind == op && p.tokens[1].text == "=":
			p.next()
			p.next()
			if a.moreNamed != nil {
				failAt(t.line, "an argument follows a dict of arguments")
			}
			a.names, a.named = append(a.names, t.text), append(a.named, p.expr())
		case p.is("*") && a.more == nil && a.moreNamed == nil:
			p.next()
			a.more = p.expr()
		case p.is("**") && a.moreNamed == nil:
			p.next()
			a.moreNamed = p.expr()
		case a.names != nil || a.more != nil || a.moreNamed != nil:
			failAt(t.line, "an argument without a name follows one with a name, or a list of arguments")
		default:
			a.list = append(a.list, p.expr())
		}
	}
	return a
}

func (p *parser) peek() token { return p.tokens[0] }

// next reads a token; the last one stays.
func (p *parser) next() token {
	t := p.tokens[0]
	if t.kind != end {
		p.tokens = p.tokens[1:]
	}
	return t
}

func (p *parser) is(o string) bool       { return p.peek().kind == op && p.peek().text == o }
func (p *parser) isWord(w string) bool   { return p.peek().kind == name && p.peek().text == w }
func (p *parser) take(o string) bool     { return p.is(o) && p.next().kind == op }
func (p *parser) takeWord(w string) bool { return p.isWord(w) && p.next().kind == name }

func (p *parser) want(o string) {
	if t := p.peek(); !p.take(o) {
		failAt(t.line, "expected '%s', got %s", o, t.what())
	}
}

func (p *parser) wantWord(w string) {
	if t := p.peek(); !p.takeWord(w) {
		failAt(t.line, "expected '%s', got %s", w, t.what())
	}
}

func (p *parser) name() string {
	t := p.next()
	if t.kind != name {
		failAt(t.line, "expected a name, got %s", t.what())
	}
	return t.text
}

// finish wants the tag to be over.
func (p *parser) finish() {
	if t := p.peek(); t.kind != end {
		failAt(t.line, "unexpected %s", t.what())
	}
}

func (t token) what() string {
	if t.kind == end {
		return "the end of the tag"
	}
	return "'" + t.text + "'"
}
