package program

import (
	"testing"

	"dstack/internal/cli/term"
	"dstack/internal/recorded"
)

// The recorded cases are what the published client makes of a variable X.
func TestBoolRecorded(t *testing.T) {
	type row struct {
		In, Error string
		Out       bool
	}
	recorded.Rows(t, "testdata/env-bool.jsonl", func(t *testing.T, r row) {
		p := &Program{IO: term.New(nil, nil, nil), Lookup: func(string) (string, bool) { return r.In, true }}
		got, err := p.Bool("X")
		msg := ""
		if err != nil {
			msg = err.Error()
		}
		if got != r.Out || msg != r.Error {
			t.Errorf("%q = %v, %q, recorded %v, %q", r.In, got, msg, r.Out, r.Error)
		}
	})
	p := &Program{Lookup: func(string) (string, bool) { return "", false }}
	if got, err := p.Bool("X"); got || err != nil {
		t.Errorf("unset = %v, %v", got, err)
	}
}
