package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/backend"
	"dstack/internal/ledger"
	"dstack/internal/store"
)

// paidFleets stores fleets whose instances have been paid for since some hours, at $1 an hour each;
// every second one was before replaced by another, which has ended.
func paidFleets(t testing.TB, s *Server, fleets, each int) {
	t.Helper()
	var p api.Project
	s.must(t, "/api/projects/main/get", nil, &p)
	at, end := store.Micros(time.Now().Add(-2*time.Hour)), store.Micros(time.Now().Add(-time.Hour))
	doc := ledger.Doc{Instance: backend.Instance{Ref: backend.Ref{ID: "m", Region: "north"}}}
	write := func(tx *store.Tx, query string, args ...any) error {
		_, err := tx.ExecContext(t.Context(), query, args...)
		return err
	}
	err := s.db.Write(t.Context(), func(tx *store.Tx) error {
		for f := range fleets {
			fleet := fmt.Sprintf("00000000-0000-4000-8000-%012d", f)
			err := write(tx, `INSERT INTO fleet (id, project_id, name, status, created_at, shard, data) VALUES ($1, $2, $3, 'active', $4, 0, '{"configuration": {"type": "fleet", "nodes": {"min": 0, "max": 100}}, "profile": {"name": "default"}}')`,
				fleet, p.ProjectID, fmt.Sprint("fleet-", f), at)
			if err != nil {
				return err
			}
			for n := range each {
				for gone := range 1 + n%2 {
					id, to, state := fmt.Sprintf("00000000-0000-4000-800%d-%06d%06d", gone, f, n), int64(0), "created"
					if gone == 1 {
						to, state = end, "gone"
					}
					err := write(tx, `INSERT INTO instance (id, project_id, fleet_id, num, name, status, backend, deleted, created_at, blocks, shard, data) VALUES ($1, $2, $3, $4, $5, 'idle', 'lambda', $6, $7, 1, 0, '{}')`,
						id, p.ProjectID, fleet, n, fmt.Sprintf("fleet-%d-%d", f, n), gone == 1, at)
					if err != nil {
						return err
					}
					err = write(tx, `INSERT INTO intent (id, shard, version, kind, backend, region, project_id, owner_kind, owner_id, state, wanted, idle, price, created_at, billed_from, billed_to, doc)
VALUES ($1, 0, 1, 'instance', 'lambda', 'north', $2, 'instance', $1, $3, TRUE, TRUE, 1, $4, $4, $5, $6)`, id, p.ProjectID, state, at, to, store.JSON(&doc))
					if err != nil {
						return err
					}
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestCostsGrouped(t *testing.T) {
	eachServer(t, func(t *testing.T, s *Server) {
		began := time.Now()
		paidFleets(t, s, 2, 4) // each $2·4 and $1·2
		// They cost $8 in an hour of the test.
		near := func(a, b float64) bool { return math.Abs(a-b) < 0.01+8*time.Since(began).Hours() }
		// A run held half of a machine in its second hour, and holds a quarter of another one.
		var p api.Project
		s.must(t, "/api/projects/main/get", nil, &p)
		var me api.User
		s.must(t, "/api/users/get_my_user", nil, &me)
		now := time.Now()
		write(t, s, `INSERT INTO run (id, project_id, user_id, name, status, submitted_at, shard, data) VALUES ('r', $1, $2, 'train', 'running', 1, 0, '{}')`, p.ProjectID, me.ID)
		write(t, s, `INSERT INTO assignment_ended (job_id, instance_id, project_id, run_id, blocks, of_blocks, created_at, ended_at) VALUES ('j', '00000000-0000-4000-8000-000000000000', $1, 'r', 2, 4, $2, $3)`,
			p.ProjectID, store.Micros(now.Add(-time.Hour)), store.Micros(now))
		write(t, s, `UPDATE instance SET blocks = 4 WHERE id = '00000000-0000-4000-8000-000000000001'`)
		write(t, s, `INSERT INTO assignment (job_id, instance_id, blocks, created_at, run_id) VALUES ('k', '00000000-0000-4000-8000-000000000001', 1, $1, 'r')`, store.Micros(now.Add(-time.Hour)))

		for name, tt := range map[string]struct {
			body map[string]any
			rows int
			usd  float64
			row  func(r api.CostRow) bool // there is one such
		}{
			"all":            {map[string]any{}, 1, 20, func(r api.CostRow) bool { return r.Kind == "instance" && near(r.HourlyUSD, 8) && r.Fleet == nil }},
			"by fleet":       {map[string]any{"by": []string{"fleet"}}, 2, 20, func(r api.CostRow) bool { return *r.Fleet == "fleet-1" && near(r.CostUSD, 10) && near(r.Hours, 10) }},
			"by instance":    {map[string]any{"by": []string{"instance"}}, 12, 20, func(r api.CostRow) bool { return *r.Instance == "fleet-1-3" && near(r.CostUSD, 1) && r.HourlyUSD == 0 }},
			"of a fleet":     {map[string]any{"fleet_names": []string{"fleet-0"}}, 1, 10, nil},
			"of a project":   {map[string]any{"project_names": []string{"main"}, "by": []string{"project", "backend"}}, 1, 20, func(r api.CostRow) bool { return *r.Project == "main" && *r.Backend == "lambda" }},
			"the last hour":  {map[string]any{"since": now.Add(-time.Hour).UTC().Format(time.RFC3339Nano)}, 1, 8, nil},
			"the first hour": {map[string]any{"until": now.Add(-time.Hour).UTC().Format(time.RFC3339Nano)}, 1, 12, nil},
			"by run": {map[string]any{"by": []string{"run"}}, 2, 20, func(r api.CostRow) bool {
				return r.Run != nil && *r.Run == "train" && near(r.CostUSD, 0.75) && near(r.HourlyUSD, 0.25)
			}},
			"by user": {map[string]any{"by": []string{"user"}}, 2, 20, func(r api.CostRow) bool { return r.User == nil && near(r.CostUSD, 19.25) }},
		} {
			var got api.Costs
			s.must(t, "/api/costs/get", tt.body, &got)
			sum := 0.0
			for _, r := range got.Rows {
				sum += r.CostUSD
			}
			if len(got.Rows) != tt.rows || !near(got.CostUSD, tt.usd) || !near(sum, tt.usd) || tt.row != nil && !slices.ContainsFunc(got.Rows, tt.row) {
				t.Errorf("%s: %+v", name, got)
			}
		}
		var f api.Fleet
		s.must(t, "/api/project/main/fleets/get", map[string]any{"name": "fleet-0"}, &f)
		if f.MachineCost == nil || !near(*f.MachineCost, 10) || len(f.Instances) != 4 || !near(*f.Instances[0].MachineCost, 2) {
			t.Errorf("the fleet costs %v, its instances %+v", f.MachineCost, f.Instances)
		}
		var i api.Instance
		s.must(t, "/api/project/main/instances/get", map[string]any{"id": f.Instances[0].ID}, &i)
		if i.MachineCost == nil || !near(*i.MachineCost, 2) {
			t.Errorf("the instance costs %v", i.MachineCost)
		}
	})
}

// What is deleted has been paid for: a fleet is told from another of its name, and administrators see
// what a project has cost.
func TestCostsOfDeleted(t *testing.T) {
	s := newServer(t)
	paidFleets(t, s, 2, 2) // each $2·2 and $1
	write(t, s, `UPDATE fleet SET name = 'gpus', deleted = (name = 'fleet-1')`)
	rows := func(body map[string]any) (all []string) {
		var got api.Costs
		s.must(t, "/api/costs/get", body, &got)
		for _, r := range got.Rows {
			all = append(all, fmt.Sprintf("%s %t, %s %t $%.2f", *r.Project, r.ProjectDeleted, *r.Fleet, r.FleetDeleted, r.CostUSD))
		}
		return all
	}
	by := []string{"project", "fleet"}
	if diff := cmp.Diff([]string{"main false, gpus false $5.00", "main false, gpus true $5.00"}, rows(map[string]any{"by": by})); diff != "" {
		t.Errorf("a deleted fleet (-want +got):\n%s", diff)
	}
	member := s.addUser(t, "member", "user")
	write(t, s, `UPDATE project SET deleted = TRUE WHERE name = 'main'`)
	want := []string{"main true, gpus false $5.00", "main true, gpus true $5.00"}
	for _, names := range [][]string{nil, {"main"}} {
		if diff := cmp.Diff(want, rows(map[string]any{"by": by, "project_names": names})); diff != "" {
			t.Errorf("a deleted project, asked for %v (-want +got):\n%s", names, diff)
		}
	}
	if a := s.call(t, "POST", "/api/costs/get", member, []byte(`{"project_names": ["main"]}`)); refusal(a) != "Project main not found" {
		t.Errorf("a user asks for a deleted project: %d %s", a.Status, a.Body)
	}
	s.must(t, "/api/projects/create", map[string]any{"project_name": "main"}, nil)
	if got := rows(map[string]any{"by": by, "project_names": []string{"main"}}); got != nil {
		t.Errorf("a new project of the name has cost %v", got)
	}
	if diff := cmp.Diff(want, rows(map[string]any{"by": by})); diff != "" {
		t.Errorf("all projects (-want +got):\n%s", diff)
	}
}

func TestCostsAccess(t *testing.T) {
	s := newServer(t)
	paidFleets(t, s, 1, 1)
	stranger := s.addUser(t, "stranger", "user")
	for name, tt := range map[string]struct {
		token, body string
		status      int
		want        string
	}{
		"of another's project":  {stranger, `{"project_names": ["main"]}`, http.StatusBadRequest, "Project main not found"},
		"of no project":         {adminToken, `{"project_names": ["nosuch"]}`, http.StatusBadRequest, "Project nosuch not found"},
		"of no fleet":           {adminToken, `{"fleet_names": ["nosuch"]}`, http.StatusBadRequest, "Fleet nosuch not found"},
		"an end before its day": {adminToken, `{"since": "2026-02-01T00:00:00Z", "until": "2026-01-01T00:00:00Z"}`, http.StatusBadRequest, "since must be before until, and before now"},
		"what lies ahead":       {adminToken, `{"since": "9998-01-01T00:00:00Z"}`, http.StatusBadRequest, "since must be before until, and before now"},
	} {
		if a := s.call(t, "POST", "/api/costs/get", tt.token, []byte(tt.body)); a.Status != tt.status || refusal(a) != tt.want {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
		}
	}
	if a := s.call(t, "POST", "/api/costs/get", adminToken, []byte(`{"by": ["colour"]}`)); a.Status != http.StatusUnprocessableEntity {
		t.Errorf("an unknown grouping: %d %s", a.Status, a.Body)
	}
	// Who may see nothing has paid nothing.
	var got api.Costs
	a := s.call(t, "POST", "/api/costs/get", stranger, []byte(`{"by": ["fleet"]}`))
	if err := json.Unmarshal(a.Body, &got); err != nil || len(got.Rows) != 0 || got.CostUSD != 0 {
		t.Errorf("a stranger sees %d %s, %v", a.Status, a.Body, err)
	}
}

// BenchmarkFleetLists lists 500 fleets with 10,000 instances and asks what these have cost.
func BenchmarkFleetLists(b *testing.B) {
	s := newServer(b)
	paidFleets(b, s, 500, 20)
	for name, call := range map[string]struct {
		path string
		body map[string]any
	}{
		"fleets":            {"/api/project/main/fleets/list", map[string]any{}},
		"a fleet":           {"/api/project/main/fleets/get", map[string]any{"name": "fleet-7"}},
		"costs by fleet":    {"/api/costs/get", map[string]any{"by": []string{"fleet"}}},
		"costs by instance": {"/api/costs/get", map[string]any{"by": []string{"fleet", "instance"}}},
		"costs by run, day": {"/api/costs/get", map[string]any{"by": []string{"run", "day"}}},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() { // without the checks of the harness
				r := httptest.NewRequest(http.MethodPost, call.path, bytes.NewReader(marshal(call.body)))
				r.Header.Set("Authorization", "Bearer "+adminToken)
				r.Header.Set("Content-Type", "application/json")
				w := httptest.NewRecorder()
				if s.Handler().ServeHTTP(w, r); w.Code != http.StatusOK {
					b.Fatalf("%d %s", w.Code, short(w.Body.Bytes()))
				}
			}
		})
	}
}
