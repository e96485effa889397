package server

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"dstack/internal/backend"
	"dstack/internal/backend/fake"
	"dstack/internal/store/storetest"
)

// TestOlderIsShown starts a server in the folder that one with an older schema has left behind: it shows all of it as
// that one did.
func TestOlderIsShown(t *testing.T) {
	storetest.EachOlder(t, func(t *testing.T, o storetest.Older) {
		for _, engine := range []struct {
			name string
			url  func(testing.TB) string
		}{{"sqlite", func(testing.TB) string { return "" }}, {"postgres", o.Postgres}} {
			t.Run(engine.name, func(t *testing.T) {
				s := newOlder(t, o, engine.url(t))
				var views []struct {
					Path   string          `json:"path"`
					Body   map[string]any  `json:"body"`
					Answer json.RawMessage `json:"answer"`
				}
				o.Decode(t, "shown.json", &views)
				logs := 0
				for _, v := range views {
					if strings.HasSuffix(v.Path, "/logs/poll") {
						if logs++; engine.name == "postgres" {
							continue // where logs are rows, not files
						}
					}
					var want, got any
					s.must(t, "/api/"+v.Path, v.Body, &got)
					if err := json.Unmarshal(v.Answer, &want); err != nil {
						t.Fatal(err)
					}
					for _, diff := range unlike("", want, got) {
						t.Errorf("%s %v: %s", v.Path, v.Body, diff)
					}
				}
				if len(views)-logs < 30 || logs < 15 {
					t.Errorf("%d answers and %d logs were compared", len(views)-logs, logs)
				}
			})
		}
	})
}

// newOlder opens a server, which rests, in the folder of an older one, on the database there for "".
func newOlder(t *testing.T, o storetest.Older, url string) *Server {
	t.Helper()
	dir := t.TempDir()
	o.Unpack(t, dir)
	var types []backend.Type
	for _, name := range []string{"crusoe", "nebius", "aws"} {
		cloud := fake.New(fake.Config{Name: name})
		types = append(types, backend.Define(name, "", func(context.Context, struct{}, backend.Deps) (backend.Backend, error) { return cloud, nil }))
	}
	if url == "" {
		url = filepath.Join(dir, "server.db")
	}
	s, err := New(context.Background(), Config{Dir: dir, DBURL: url, Token: adminToken, Backends: types, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.shut(t) })
	return s
}

// growing are what depends on the time at which it is asked for.
var growing = map[string]bool{"cost": true, "machine_cost": true, "next_triggered_at": true}

// unlike says where an answer has not what was shown before. It may have more.
func unlike(at string, want, got any) (diffs []string) {
	switch want := want.(type) {
	case map[string]any:
		now, ok := got.(map[string]any)
		if !ok {
			break
		}
		for name, v := range want {
			if !growing[name] {
				diffs = append(diffs, unlike(at+"."+name, v, now[name])...)
			}
		}
		return diffs
	case []any:
		now, ok := got.([]any)
		if !ok || len(now) != len(want) {
			break
		}
		for i, v := range want {
			diffs = append(diffs, unlike(fmt.Sprintf("%s[%d]", at, i), v, now[i])...)
		}
		return diffs
	}
	if a, b := string(marshal(want)), string(marshal(got)); a != b {
		diffs = append(diffs, fmt.Sprintf("%s is %s, was %s", at, b, a))
	}
	return diffs
}
