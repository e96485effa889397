package server

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"dstack/internal/api"
	"dstack/internal/backend"
	"dstack/internal/ledger"
	"dstack/internal/store"
)

// TestForget gives up a machine whose backend is not configured any more, and nothing else.
func TestForget(t *testing.T) {
	eachServer(t, func(t *testing.T, s *Server) {
		var p api.Project
		s.must(t, "/api/projects/main/get", nil, &p)
		at := time.Now().Add(-2 * time.Hour)
		doc := ledger.Doc{Instance: backend.Instance{Ref: backend.Ref{ID: "m-1", Region: "north"}}, SeenAt: at}
		waiting := ledger.Doc{Create: &backend.CreateRequest{}}
		for id, doc := range map[string]ledger.Doc{"lost": doc, "waits": waiting} {
			state := map[string]string{"lost": "created", "waits": "intended"}[id]
			write(t, s, `INSERT INTO intent (id, shard, version, kind, backend, region, project_id, owner_kind, owner_id, state, wanted, idle, price, created_at, billed_from, doc)
VALUES ($1, 0, 1, 'instance', 'lambda', 'north', $2, 'instance', 'nobody', $3, TRUE, TRUE, 2, $4, $4, $5)`, id, p.ProjectID, state, store.Micros(at), store.JSON(&doc))
		}
		for intent, want := range map[string]string{
			"nosuch":                 "Nothing that costs money has this intent",
			"":                       "Nothing that costs money has this intent",
			strings.Repeat("x", 999): "Nothing that costs money has this intent",
			"waits": "The instance of this intent is expected: its backend may yet say what becomes of it. Only what no credentials answer for can be forgotten. " +
				"If the backend does not answer now, and never will: delete what it is for, such as its fleet, and ask again ten minutes later.",
		} {
			a := s.call(t, "POST", "/api/server/doctor/forget", adminToken, map[string]any{"intent": intent})
			if a.Status != http.StatusBadRequest || refusal(a) != want {
				t.Errorf("forget %.10q: %d %s", intent, a.Status, a.Body)
			}
		}
		if a := s.call(t, "POST", "/api/server/doctor/forget", adminToken, map[string]any{}); a.Status != http.StatusUnprocessableEntity || !strings.Contains(string(a.Body), `"intent"`) {
			t.Errorf("forget without an intent: %d %s", a.Status, a.Body)
		}
		if a := s.call(t, "POST", "/api/server/doctor/forget", s.addUser(t, "stranger", "user"), map[string]any{"intent": "lost"}); a.Status != http.StatusForbidden {
			t.Errorf("a user who is no administrator: %d %s", a.Status, a.Body)
		}

		var d api.Doctor
		s.must(t, "/api/server/doctor", nil, &d)
		for _, r := range d.Resources {
			if r.Forgettable != (r.Intent == "lost") {
				t.Errorf("%s can be forgotten: %v", r.Intent, r.Forgettable)
			}
		}
		var r api.DoctorResource
		s.must(t, "/api/server/doctor/forget", map[string]any{"intent": "lost"}, &r)
		if r.ID != "m-1" || r.Intent != "lost" || r.CostUSD < 3.9 || r.CostUSD > 4.1 {
			t.Errorf("forgot %+v", r)
		}
		got, err := ledger.Get(t.Context(), s.db.Read(), "lost")
		if err != nil || got.State != ledger.Gone || got.Doc.Outcome != ledger.Forgotten {
			t.Errorf("the intent is %s (%s), %v", got.State, got.Doc.Outcome, err)
		}
		var events []api.Event
		s.must(t, "/api/events/list", map[string]any{}, &events)
		if e := events[0]; e.Message != "Forgotten: instance m-1 of backend lambda in north, which may still cost money" || e.ActorUser == nil || *e.ActorUser != "admin" || e.Targets[0].Name != "main" {
			t.Errorf("the event is %+v", e)
		}
		if a := s.call(t, "POST", "/api/server/doctor/forget", adminToken, map[string]any{"intent": "lost"}); a.Status != http.StatusBadRequest {
			t.Errorf("forget twice: %d %s", a.Status, a.Body)
		}
	})
}
