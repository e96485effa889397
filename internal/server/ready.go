package server

import (
	"context"
	"net/http"
	"time"
)

// readyWithin is how long the database may take to answer a server that says it is ready.
const readyWithin = 2 * time.Second

// ready tells load balancers whether requests can be answered: /healthcheck says only that
// the process lives, and a replica that is cut from its database should get no requests, but
// need not be restarted.
func ready(s *Server, _ caller, w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), readyWithin)
	defer cancel()
	var one int
	if err := s.db.Read().QueryRowContext(ctx, `SELECT 1`).Scan(&one); err != nil {
		s.Log.Warn("not ready: the database does not answer", "err", err)
		unavailable(w, "The database does not answer")
		return nil
	}
	if s.engine.Barred() {
		unavailable(w, "The database does not give this server its share of the work")
		return nil
	}
	encode(w, http.StatusOK, map[string]string{"status": "ready"})
	return nil
}
