package schemacmd

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
)

func TestSchema(t *testing.T) {
	for _, tt := range []struct {
		args       []string
		title, err string
	}{
		{nil, "dstack configuration", ""},
		{[]string{"configuration"}, "dstack configuration", ""},
		{[]string{"profiles"}, "dstack profiles", ""},
		{[]string{"foo"}, "", `there is no schema of "foo": choose one of configuration, profiles`},
	} {
		var out bytes.Buffer
		cmd := New(&program.Program{IO: term.New(strings.NewReader(""), &out, &out)})
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		cmd.SetArgs(tt.args)
		if err := cmd.Execute(); tt.err != "" || err != nil {
			if err == nil || err.Error() != tt.err {
				t.Errorf("%q: error %v, want %s", tt.args, err, tt.err)
			}
			continue
		}
		var got struct {
			Title  string
			Schema string `json:"$schema"`
		}
		if err := json.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if got.Title != tt.title || got.Schema != "https://json-schema.org/draft/2020-12/schema" {
			t.Errorf("%q: got %+v", tt.args, got)
		}
	}
}
