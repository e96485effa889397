package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Problem is one thing that is wrong with a document.
type Problem struct {
	File   string // "" for JSON
	Line   int    // from 1, 0 when unknown
	Col    int    // from 1
	Loc    []any  // path: string keys, int indices, tags of unions
	Type   string // the word the wire uses: "missing", "extra_forbidden", "value_error"…
	Msg    string
	Reason string // what a parser said, "" if Msg says it all
	Input  any    // the offending value as decoded from JSON or YAML, nil when missing
}

// Path is the location as people write it: resources.gpu, hosts[0].port.
func (p Problem) Path() string {
	var b strings.Builder
	for _, part := range p.Loc {
		switch v := part.(type) {
		case int:
			b.WriteString("[" + strconv.Itoa(v) + "]")
		default:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			fmt.Fprint(&b, v)
		}
	}
	return clip(b.String())
}

func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", p.Line, p.Col)
		}
		b.WriteString(": ")
	}
	if path := p.Path(); path != "" {
		b.WriteString(path + ": ")
	}
	b.WriteString(strings.TrimPrefix(p.Msg, "Value error, "))
	return b.String()
}

// Error makes a Problem what a type that reads itself may answer: Type and Msg count.
func (p *Problem) Error() string { return p.String() }

// Errors is everything that is wrong with a document, in document order.
type Errors struct{ Problems []Problem }

func (e *Errors) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Join puts the problems of several parts of one document together. An error of another kind, which
// says that a part could not be read at all, comes before them.
func Join(errs ...error) error {
	var all Errors
	for _, err := range errs {
		problems, ok := errors.AsType[*Errors](err)
		if err != nil && !ok {
			return err
		}
		if ok {
			all.Problems = append(all.Problems, problems.Problems...)
		}
	}
	if len(all.Problems) == 0 {
		return nil
	}
	return &all
}

// clip bounds a text that quotes what it complains about.
func clip(s string) string {
	const most = 1000 // bytes
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
