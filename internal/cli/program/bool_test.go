package program

import (
	"bytes"
	"encoding/json"
	"os"
	"testing"

	"dstack/internal/cli/term"
)

// The recorded cases are what the published client makes of a variable X.
func TestBoolRecorded(t *testing.T) {
	data, err := os.ReadFile("testdata/env-bool.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(data) {
		var r struct {
			In, Error string
			Out       bool
		}
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		p := &Program{IO: term.New(nil, nil, nil), Lookup: func(string) (string, bool) { return r.In, true }}
		got, err := p.Bool("X")
		msg := ""
		if err != nil {
			msg = err.Error()
		}
		if got != r.Out || msg != r.Error {
			t.Errorf("%q = %v, %q, recorded %v, %q", r.In, got, msg, r.Out, r.Error)
		}
	}
	p := &Program{Lookup: func(string) (string, bool) { return "", false }}
	if got, err := p.Bool("X"); got || err != nil {
		t.Errorf("unset = %v, %v", got, err)
	}
}
