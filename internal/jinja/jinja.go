// Package jinja renders the templates by which chat models turn a conversation into text: the part
// of Jinja 2 that such templates use, with trim_blocks and lstrip_blocks on. Templates come from
// strangers, so a rendering has a budget of steps, of bytes and of depth, reads no files, and calls
// nothing but what is listed here. (General engines for Go bound none of these: a macro that calls
// itself would end the process.)
//
// Test it with go test ./internal/jinja; testdata holds what Jinja itself makes of real templates.
package jinja

import (
	"context"
	"fmt"
	"strings"
)

// Limits of templates and renderings.
const (
	maxSource  = 256 << 10 // bytes of a template
	maxSteps   = 3_000_000 // a second or so
	maxBytes   = 64 << 20  // of all texts and lists that a rendering makes, whether it keeps them or not
	maxCalls   = 40        // macros within macros
	maxNesting = 100       // of a template's blocks and expressions, and of values
	maxRange   = 100_000   // numbers in a range, as in Jinja's sandbox
)

// Template is a compiled template. It is safe for concurrent use.
type Template struct {
	body []stmt
}

// Error says what is wrong with a template, or what it says itself by raise_exception.
type Error struct {
	Line int // 0: none in particular
	Msg  string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.Msg
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Msg)
}

// Compile reads a template. The error is an [*Error].
func Compile(source string) (t *Template, err error) {
	if len(source) > maxSource {
		return nil, &Error{Msg: fmt.Sprintf("the template is larger than %d bytes", maxSource)}
	}
	defer catch(&err)
	p := &parser{pieces: split(source)}
	body, _ := p.body(0)
	return &Template{body}, nil
}

// Render executes the template with variables: nil, bool, int, float64, string, []any and
// map[string]any. The error is an [*Error], or that of ctx.
func (t *Template) Render(ctx context.Context, vars map[string]any) (text string, err error) {
	defer catch(&err)
	e := &exec{ctx: ctx, globals: map[string]any{}, out: &strings.Builder{}}
	for name, f := range functions {
		e.globals[name] = f
	}
	for name, v := range vars {
		e.globals[name] = e.from(v, 0)
	}
	e.run(t.body, &scope{vars: map[string]any{}})
	return e.out.String(), nil
}

// fault carries an error out of the depths of a parser or a rendering; see [catch].
type fault struct{ err error }

// catch turns a fault into an error at the package's door. Other panics go on.
func catch(err *error) {
	switch f := recover().(type) {
	case nil:
	case fault:
		*err = f.err
	default:
		panic(f)
	}
}

func failAt(line int, format string, args ...any) {
	panic(fault{&Error{line, fmt.Sprintf(format, args...)}})
}
