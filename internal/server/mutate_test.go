package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"dstack/internal/sshkey"
)

// request is one well-formed request of testdata/requests.json.
type request struct {
	Path string `json:"path"`
	Body any    `json:"body"`
}

func readRequests(t testing.TB) []request {
	t.Helper()
	data, err := os.ReadFile("testdata/requests.json")
	if err != nil {
		t.Fatal(err)
	}
	data = withKey(t, data)
	var list []request
	if err := json.Unmarshal(data, &list); err != nil {
		t.Fatal(err)
	}
	return list
}

// withKey puts a private key where recordings have none.
func withKey(t testing.TB, data []byte) []byte {
	t.Helper()
	keys, err := sshkey.Generate("me@host")
	if err != nil {
		t.Fatal(err)
	}
	quoted, err := json.Marshal(keys.Private)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.ReplaceAll(data, []byte(`"-----BEGIN OPENSSH PRIVATE KEY-----\nPLACEHOLDER\n-----END OPENSSH PRIVATE KEY-----\n"`), quoted)
}

// odd are values that hardly any field takes.
var odd = []struct {
	name  string
	value any
}{
	{"null", nil},
	{"a negative", -1},
	{"a NUL", "a\x00b"},
	{"a list", []any{}},
	{"an object", map[string]any{}},
	{"a path", "../../../etc/passwd"},
	{"a huge number", json.RawMessage(`123456789012345678901234567890`)},
	{"a bool", true},
	{"an empty text", ""},
	{"a list of null", []any{nil}},
	{"broken UTF-8", raw("\"\xff\xfe\"")},
	{"an int", 7},
	{"a text", "nosuch"},
	{"a late date", "9999-12-31T23:59:59.999999Z"},
	{"a larger number", json.RawMessage(`1e400`)},
	{"a fraction", 0.5},
	{"a long text", strings.Repeat("x", 1<<14)},
	{"an early date", "0001-01-01T00:00:00Z"},
	{"nested lists", []any{[]any{[]any{[]any{}}}}},
	{"no date", "2026-13-45T99:99:99Z"},
	{"a long list", make([]any, 2000)},
	{"half a character", json.RawMessage(`"\ud800"`)},
	{"deep", json.RawMessage(strings.Repeat("[", 3000) + strings.Repeat("]", 3000))},
}

// oddPerPlace is how many of the odd values each place of a request is given, in turn: with
// about a thousand places each value meets fields of every kind.
const oddPerPlace = 2

// raw is put into a body as it is, whether or not it is JSON.
type raw string

// MarshalJSON writes a mark that [encodeOdd] replaces.
func (r raw) MarshalJSON() ([]byte, error) { return []byte(`"RAW-RAW-RAW"`), nil }

func encodeOdd(t testing.TB, v any, value any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if r, ok := value.(raw); ok {
		data = bytes.ReplaceAll(data, []byte(`"RAW-RAW-RAW"`), []byte(r))
	}
	return data
}

// mutate calls f with each place in v: set changes the value there, and undoes that when
// it is called with keep.
func mutate(v any, at string, f func(at string, set func(any), remove func(), undo func())) {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			old := v[k]
			f(at+"."+k, func(x any) { v[k] = x }, func() { delete(v, k) }, func() { v[k] = old })
			mutate(old, at+"."+k, f)
		}
		f(at+".no-such-field", func(x any) { v["no-such-field"] = x }, nil, func() { delete(v, "no-such-field") })
	case []any:
		for i := range v {
			old := v[i]
			f(fmt.Sprintf("%s.%d", at, i), func(x any) { v[i] = x }, nil, func() { v[i] = old })
			mutate(old, fmt.Sprintf("%s.%d", at, i), f)
		}
	}
}

// dump is all that the database holds.
func (s *Server) dump(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	for _, table := range tables {
		rows, err := s.db.Read().QueryContext(context.Background(), "SELECT * FROM "+table)
		if err != nil {
			t.Fatal(err)
		}
		columns, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		for rows.Next() {
			values := make([]any, len(columns))
			for i := range values {
				values[i] = new(any)
			}
			if err := rows.Scan(values...); err != nil {
				t.Fatal(err)
			}
			line := table
			for _, v := range values {
				line += fmt.Sprintf("|%v", *v.(*any))
			}
			lines = append(lines, line)
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		rows.Close()
		slices.Sort(lines)
		b.WriteString(strings.Join(lines, "\n") + "\n")
	}
	return b.String()
}

var tables = []string{"account", "archive", "assignment", "backend_config", "blob", "code", "event", "event_target", "fleet", "instance", "intent", "job", "member", "project", "public_key", "repo",
	"repo_creds", "run", "secret", "setting"}

// TestMutatedRequests breaks well-formed requests in one place at a time: whatever is sent, the
// answer is not a 5xx, and what is refused has changed nothing.
func TestMutatedRequests(t *testing.T) {
	eachServer(t, func(t *testing.T, s *Server) {
		s.addUser(t, "alice", "user")
		sent := map[string]bool{}
		turn := 0
		for _, rq := range readRequests(t) {
			sent[rq.Path] = true
			state := s.dump(t)
			try := func(what string, value any) (refused bool) {
				a := s.call(t, "POST", rq.Path, adminToken, encodeOdd(t, rq.Body, value))
				if a.Status < 400 {
					return false
				}
				a.clear(t, rq.Path+" "+what)
				return true
			}
			mutate(rq.Body, "", func(at string, set func(any), remove func(), undo func()) {
				refused := true
				for range oddPerPlace {
					v := odd[turn%len(odd)]
					turn++
					set(v.value)
					refused = try(at+" = "+v.name, v.value) && refused
				}
				if remove != nil {
					remove()
					refused = try(at+" left out", nil) && refused
				}
				undo()
				now := s.dump(t)
				if refused && now != state {
					t.Errorf("%s %s: all was refused, but the database has changed", rq.Path, at)
				}
				state = now
			})
			try("as it is", nil)
		}
		for _, path := range posts(s) {
			if !sent[path] && !takesNoBody(path) {
				t.Errorf("testdata/requests.json has no request to %s", path)
			}
		}
	})
}
