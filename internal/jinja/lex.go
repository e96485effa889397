package jinja

import (
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A piece is what a template consists of: plain text, an expression to print, or a tag.
type piece struct {
	kind   pieceKind
	text   string
	tokens []token // they end with one of kind end
	line   int
}

type pieceKind int

const (
	plain pieceKind = iota
	output
	tag
)

type token struct {
	kind  tokenKind
	text  string // of strings: what they stand for
	line  int
	whole int64
	float float64
}

type tokenKind int

const (
	end tokenKind = iota
	name
	text
	whole
	float
	op
)

// lexer cuts a template into pieces.
type lexer struct {
	src  string
	pos  int
	line int
	out  []piece
}

var endraw = regexp.MustCompile(`\{%([-+]?)\s*endraw\s*([-+]?)%\}`)

func split(src string) []piece {
	src = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(src)
	l := &lexer{src: strings.TrimSuffix(src, "\n"), line: 1}
	for l.pos < len(l.src) {
		l.next()
	}
	return l.out
}

// next reads the text up to the next delimiter, and what is in it.
func (l *lexer) next() {
	open := l.pos
	for {
		i := strings.IndexByte(l.src[open:], '{')
		if i < 0 || open+i+1 >= len(l.src) {
			l.plain(l.src[l.pos:])
			l.pos = len(l.src)
			return
		}
		open += i
		if strings.IndexByte("{%#", l.src[open+1]) >= 0 {
			break
		}
		open++
	}
	before, kind := l.src[l.pos:open], l.src[open+1]
	l.pos = open + 2
	sign := l.sign()
	line := l.line + strings.Count(before, "\n")
	switch {
	case sign == '-':
		before = strings.TrimRight(before, space)
	case sign == 0 && kind != '{':
		before = l.lstrip(before, open)
	}
	l.plain(before)
	l.line = line
	switch kind {
	case '#':
		i := strings.Index(l.src[l.pos:], "#}")
		if i < 0 {
			failAt(l.line, "a comment does not end")
		}
		comment := l.src[l.pos : l.pos+i]
		l.line += strings.Count(comment, "\n")
		l.pos += i + 2
		l.after(comment, true)
	case '{':
		l.inside(output, "}}")
	default:
		l.inside(tag, "%}")
	}
}

const space = " \t\n\r\v\f"

// sign reads the - or + behind an opening delimiter, 0 for none.
func (l *lexer) sign() byte {
	if l.pos < len(l.src) && (l.src[l.pos] == '-' || l.src[l.pos] == '+') {
		l.pos++
		return l.src[l.pos-1]
	}
	return 0
}

// lstrip drops the spaces between the start of the line and a tag.
func (l *lexer) lstrip(before string, open int) string {
	kept := strings.TrimRight(before, " \t")
	if start := open - (len(before) - len(kept)); start == 0 || l.src[start-1] == '\n' {
		return kept
	}
	return before
}

func (l *lexer) plain(s string) {
	if s != "" {
		l.out = append(l.out, piece{kind: plain, text: s, line: l.line})
	}
}

// after drops the white space that a closing delimiter takes with it; inner is what stood before
// that, with its sign.
func (l *lexer) after(inner string, block bool) {
	rest := l.src[l.pos:]
	switch {
	case strings.HasSuffix(inner, "-"):
		rest = strings.TrimLeft(rest, space)
	case block && !strings.HasSuffix(inner, "+"):
		rest = strings.TrimPrefix(rest, "\n")
	}
	skipped := l.src[l.pos : len(l.src)-len(rest)]
	l.line += strings.Count(skipped, "\n")
	l.pos += len(skipped)
}

// inside reads the tokens of a tag or an expression to print, up to its closing delimiter.
func (l *lexer) inside(kind pieceKind, closing string) {
	p := piece{kind: kind, line: l.line}
	var open []byte // brackets
	for {
		l.skip()
		rest := l.src[l.pos:]
		if rest == "" {
			failAt(p.line, "a tag does not end")
		}
		if len(open) == 0 {
			sign := ""
			if rest[0] == '-' || rest[0] == '+' {
				sign = rest[:1]
			}
			if strings.HasPrefix(rest[len(sign):], closing) {
				l.pos += len(sign) + len(closing)
				p.tokens = append(p.tokens, token{kind: end, line: l.line})
				l.after(sign, kind == tag)
				l.add(p)
				return
			}
		}
		t := l.token()
		if t.kind == op {
			open = balance(open, t)
		}
		p.tokens = append(p.tokens, t)
	}
}

// add adds a piece; what stands in a raw block is plain text.
func (l *lexer) add(p piece) {
	if p.kind != tag || len(p.tokens) != 2 || p.tokens[0].text != "raw" {
		l.out = append(l.out, p)
		return
	}
	at := endraw.FindStringSubmatchIndex(l.src[l.pos:])
	if at == nil {
		failAt(p.line, "a raw block does not end")
	}
	raw := l.src[l.pos : l.pos+at[0]]
	kept := raw
	switch before := l.src[l.pos+at[2] : l.pos+at[3]]; before {
	case "-":
		kept = strings.TrimRight(raw, space)
	case "":
		kept = l.lstrip(raw, l.pos+at[0])
	}
	l.plain(kept)
	l.line += strings.Count(raw, "\n")
	sign := l.src[l.pos+at[4] : l.pos+at[5]]
	l.pos += at[1]
	l.after(sign, true)
}

func balance(open []byte, t token) []byte {
	switch t.text {
	case "(", "[", "{":
		if len(open) >= maxNesting {
			failAt(t.line, "brackets are nested too deeply")
		}
		return append(open, t.text[0])
	case ")", "]", "}":
		pairs := map[string]byte{")": '(', "]": '[', "}": '{'}
		if len(open) == 0 || open[len(open)-1] != pairs[t.text] {
			failAt(t.line, "unexpected '%s'", t.text)
		}
		return open[:len(open)-1]
	}
	return open
}

func (l *lexer) skip() {
	for l.pos < len(l.src) && strings.IndexByte(space, l.src[l.pos]) >= 0 {
		if l.src[l.pos] == '\n' {
			l.line++
		}
		l.pos++
	}
}

var (
	numbers = regexp.MustCompile(`^(\d[\d_]*)(\.\d+)?([eE][+-]?\d+)?`)
	names   = regexp.MustCompile(`^[\pL_][\pL\pN_]*`)
)

// operators, the longer ones first.
var operators = []string{"**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<", ">", "=", "(", ")", "[", "]", "{", "}", ",", ":", ".", "|", ";"}

func (l *lexer) token() token {
	rest, line := l.src[l.pos:], l.line
	if c := rest[0]; c == '\'' || c == '"' {
		return l.quoted(c)
	}
	if s := names.FindString(rest); s != "" {
		l.pos += len(s)
		return token{kind: name, text: s, line: line}
	}
	if s := numbers.FindString(rest); s != "" {
		l.pos += len(s)
		return number(s, line)
	}
	for _, o := range operators {
		if strings.HasPrefix(rest, o) {
			l.pos += len(o)
			return token{kind: op, text: o, line: line}
		}
	}
	r, _ := utf8.DecodeRuneInString(rest)
	failAt(line, "unexpected character %q", r)
	return token{}
}

func number(s string, line int) token {
	s = strings.ReplaceAll(s, "_", "")
	t := token{kind: whole, text: s, line: line}
	var err error
	if strings.ContainsAny(s, ".eE") {
		t.kind = float
		t.float, err = strconv.ParseFloat(s, 64)
	} else {
		t.whole, err = strconv.ParseInt(s, 10, 64)
	}
	if err != nil {
		failAt(line, "the number %s is too large", s)
	}
	return t
}

func (l *lexer) quoted(quote byte) token {
	t := token{kind: text, line: l.line}
	start := l.pos
	for i := start + 1; i < len(l.src); i++ {
		switch l.src[i] {
		case '\\':
			i++
		case '\n':
			l.line++
		case quote:
			l.pos = i + 1
			t.text = unescape(l.src[start+1:i], t.line)
			return t
		}
	}
	failAt(t.line, "a string does not end")
	return t
}

// unescape reads the escapes of Python's strings.
func unescape(s string, line int) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[s[i]]
		switch c := s[i]; {
		case digits > 0:
			if i+digits >= len(s) {
				failAt(line, "a string has an escape without its digits")
			}
			n, err := strconv.ParseUint(s[i+1:i+1+digits], 16, 32)
			if err != nil {
				failAt(line, "a string has an escape without its digits")
			}
			b.WriteRune(rune(n))
			i += digits
		case c == '\n':
		case strings.IndexByte(`\'"`, c) >= 0:
			b.WriteByte(c)
		default:
			if at := strings.IndexByte("abfnrtv0", c); at >= 0 {
				b.WriteByte("\a\b\f\n\r\t\v\x00"[at])
				continue
			}
			b.WriteByte('\\')
			b.WriteByte(c)
		}
	}
	return b.String()
}
