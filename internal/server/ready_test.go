package server

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"dstack/internal/store"
)

func TestReady(t *testing.T) {
	eachServer(t, func(t *testing.T, s *Server) {
		if a := s.call(t, "GET", "/readyz", "", nil); a.Status != http.StatusOK || string(a.Body) != `{"status":"ready"}` {
			t.Errorf("%d %s", a.Status, a.Body)
		}
		if err := s.db.Close(); err != nil {
			t.Fatal(err)
		}
		if a := s.call(t, "GET", "/readyz", "", nil); a.Status != http.StatusServiceUnavailable {
			t.Errorf("without a database: %d %s", a.Status, a.Body)
		}
		if a := s.call(t, "GET", "/healthcheck", "", nil); a.Status != http.StatusOK {
			t.Errorf("the process lives: %d %s", a.Status, a.Body)
		}
	})
}

// A full disk refuses what would be stored, in words and as something that passes; the rest
// is answered.
func TestFullDisk(t *testing.T) {
	s := newServer(t)
	room := func(pages int) {
		t.Helper()
		err := s.db.Write(context.Background(), func(tx *store.Tx) error {
			return tx.QueryRowContext(context.Background(), fmt.Sprintf(`PRAGMA max_page_count = %d`, pages)).Scan(&pages)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	create := func(n int) answer {
		t.Helper()
		return s.call(t, "POST", "/api/project/main/secrets/create_or_update", adminToken, map[string]string{"name": fmt.Sprint("s", n), "value": strings.Repeat("x", 2000)})
	}
	room(1)
	n := 0
	for ; n < 100; n++ { // until the pages that there are hold no more
		if a := create(n); a.Status != http.StatusOK {
			if a.Status != http.StatusServiceUnavailable || !strings.Contains(string(a.Body), "disk of the server's database is full") {
				t.Errorf("%d %s", a.Status, a.Body)
			}
			break
		}
	}
	var stored []struct{ Name string }
	s.must(t, "/api/project/main/secrets/list", nil, &stored)
	if len(stored) != n || n == 100 {
		t.Errorf("%d secrets are stored of %d that could be", len(stored), n)
	}
	room(1 << 30)
	if a := create(n); a.Status != http.StatusOK {
		t.Errorf("with space again: %d %s", a.Status, a.Body)
	}
}
