package server

import (
	"net/http"
	"testing"
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
