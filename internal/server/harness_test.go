package server

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dstack/internal/store/storetest"
)

const adminToken = "11111111-1111-4111-8111-111111111111"

// newServer opens a server without backends on a database of its own. Its engine rests:
// what the API stores stays as it is.
func newServer(t testing.TB) *Server {
	t.Helper()
	return newServerAt(t, "")
}

// eachServer runs fn with a server on each engine.
func eachServer(t *testing.T, fn func(t *testing.T, s *Server)) {
	t.Helper()
	storetest.EachURL(t, func(t *testing.T, url string) { fn(t, newServerAt(t, url)) })
}

// newServerAt opens a server on the database at url, SQLite in a folder of its own for "".
func newServerAt(t testing.TB, url string) *Server {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.yml"), []byte("projects:\n  - name: main\n    backends: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := New(context.Background(), Config{Dir: dir, DBURL: url, Token: adminToken, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.shut(t) })
	return s
}

// shut closes what New opened.
func (s *Server) shut(t testing.TB) {
	t.Helper()
	if err := s.close(); err != nil {
		t.Error(err)
	}
}

// answer is a response read to its end.
type answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// call sends one request to the handler and holds the answer to the published description
// and to our own.
// A body that is no []byte is sent as JSON.
func (s *Server) call(t testing.TB, method, path, token string, body any, header ...string) answer {
	t.Helper()
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case []byte:
		reader = bytes.NewReader(b)
	default:
		data, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		reader = bytes.NewReader(data)
	}
	r := httptest.NewRequest(method, path, reader)
	if reader != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	if err := published(t).check(method, path, r.Header, w.Code, w.Body.Bytes()); err != nil {
		t.Errorf("%s %s: %v\n%s", method, path, err, short(w.Body.Bytes()))
	}
	if err := own(t).check(method, path, r.Header, w.Code, w.Header().Get("Content-Type"), w.Body.Bytes()); err != nil {
		t.Errorf("%s %s does not fit our description: %v\n%s", method, path, err, short(w.Body.Bytes()))
	}
	return answer{w.Code, w.Result().Header, w.Body.Bytes()}
}

// must calls as the administrator and decodes what comes with status 200 into out.
func (s *Server) must(t testing.TB, path string, body, out any) {
	t.Helper()
	a := s.call(t, "POST", path, adminToken, body)
	if a.Status != http.StatusOK {
		t.Fatalf("%s: %d %s", path, a.Status, a.Body)
	}
	if out != nil {
		if err := json.Unmarshal(a.Body, out); err != nil {
			t.Fatalf("%s: %v in %s", path, err, a.Body)
		}
	}
}

// addUser creates a user and returns its token.
func (s *Server) addUser(t testing.TB, name, role string) string {
	t.Helper()
	s.must(t, "/api/users/create", map[string]any{"username": name, "global_role": role}, nil)
	return s.token(t, name)
}

// token is the token of a user.
func (s *Server) token(t testing.TB, name string) string {
	t.Helper()
	var u struct {
		Creds struct{ Token string }
	}
	s.must(t, "/api/users/get_user", map[string]any{"username": name}, &u)
	if u.Creds.Token == "" {
		t.Fatalf("no token for %s", name)
	}
	return u.Creds.Token
}

// isJSON reports whether a response says that it is JSON.
func (a answer) isJSON() bool {
	return strings.HasPrefix(a.Header.Get("Content-Type"), "application/json")
}
