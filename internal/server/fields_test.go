package server

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestRequestFields sends every field that the published server takes, one at a time: clients
// write all of them out, so one that we do not know would break them.
func TestRequestFields(t *testing.T) {
	data, err := os.ReadFile("testdata/request-fields.txt")
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t)
	served := map[string]bool{}
	for _, rt := range s.routes() {
		_, path, _ := strings.Cut(rt.pattern, " ")
		served[path] = true
	}
	for line := range strings.Lines(string(data)) {
		parts := strings.Fields(line)
		if len(parts) == 0 || parts[0] == "#" {
			continue
		}
		if !served[parts[0]] {
			continue // permission_test tells what is served
		}
		path := strings.ReplaceAll(parts[0], "{project}", "main")
		for _, field := range parts[1:] {
			body := any(nil)
			names := strings.Split(field, ".")
			for i := len(names) - 1; i >= 0; i-- {
				body = map[string]any{names[i]: body}
			}
			a := s.call(t, "POST", path, adminToken, body)
			var v struct {
				Detail []struct {
					Type string
					Loc  []any
				}
			}
			_ = json.Unmarshal(a.Body, &v) // other answers have other forms
			for _, d := range v.Detail {
				if d.Type == "extra_forbidden" && strings.HasSuffix(fmt.Sprint(d.Loc), " "+names[len(names)-1]+"]") {
					t.Errorf("%s does not take %s", path, field)
				}
			}
		}
	}
}
