package server

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/run"
	"dstack/internal/store"
)

// TestLifeMetrics moves runs through statuses and scrapes.
func TestLifeMetrics(t *testing.T) {
	s := newServer(t)
	s.Prometheus = true
	scrape := func() string {
		a := s.call(t, "GET", "/metrics", "", nil)
		if a.Status != http.StatusOK {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		return string(a.Body)
	}
	if text := scrape(); strings.Contains(text, "dstack_submit_to_provision") || !strings.Contains(text, "process_cpu_seconds_total") {
		t.Errorf("before any run:\n%s", text)
	}
	main, err := s.projects.ByName(t.Context(), s.db.Read(), "main")
	if err != nil {
		t.Fatal(err)
	}
	r := run.Run{ProjectID: main.ID, SubmittedAt: time.Now().Add(-20 * time.Second)}
	r.Data.Spec.Configuration = config.AnyRun{Task: &config.Task{RunCommon: config.RunCommon{Type: config.TypeTask}}}
	for _, move := range [][2]api.RunStatus{
		{api.RunSubmitted, api.RunProvisioning}, {api.RunProvisioning, api.RunRunning}, {api.RunRunning, api.RunPending},
		{api.RunPending, api.RunSubmitted}, {api.RunSubmitted, api.RunRunning}, {api.RunRunning, api.RunTerminating},
	} {
		r.Status = move[1]
		s.runMoved(t.Context(), r, move[0])
	}
	text := scrape()
	for _, line := range []string{
		`dstack_submit_to_provision_duration_seconds_bucket{project_name="main",run_type="task",le="15"} 0`,
		`dstack_submit_to_provision_duration_seconds_bucket{project_name="main",run_type="task",le="30"} 2`,
		`dstack_submit_to_provision_duration_seconds_bucket{project_name="main",run_type="task",le="1800"} 2`,
		`dstack_submit_to_provision_duration_seconds_count{project_name="main",run_type="task"} 2`,
		`dstack_pending_runs_total{project_name="main",run_type="task"} 1`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no line %s in\n%s", line, text)
		}
	}
}

// TestRunCounters has all counters for everybody who has runs, and none that goes back when a
// project is deleted.
func TestRunCounters(t *testing.T) {
	s := newServer(t)
	s.Prometheus = true
	s.must(t, "/api/projects/create", map[string]any{"project_name": "gone"}, nil)
	gone, err := s.projects.ByName(t.Context(), s.db.Read(), "gone")
	if err != nil {
		t.Fatal(err)
	}
	err = s.db.Write(t.Context(), func(tx *store.Tx) error {
		for i, status := range []api.RunStatus{api.RunFailed, api.RunFailed, api.RunRunning} {
			if _, err := tx.ExecContext(t.Context(), `INSERT INTO run (id, project_id, user_id, name, status, submitted_at, shard, data) VALUES ($1, $2, $3, $4, $5, 0, 0, '{}')`,
				fmt.Sprintf("run-%d", i), gone.ID, gone.OwnerID, fmt.Sprintf("r%d", i), status); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(t.Context(), `UPDATE project SET deleted = TRUE WHERE id = $1`, gone.ID)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	a := s.call(t, "GET", "/metrics", "", nil)
	for _, line := range []string{
		`dstack_run_count_total{dstack_project_name="gone",dstack_user_name="admin"} 3`,
		`dstack_run_count_failed_total{dstack_project_name="gone",dstack_user_name="admin"} 2`,
		`dstack_run_count_terminated_total{dstack_project_name="gone",dstack_user_name="admin"} 0`,
		`dstack_run_count_done_total{dstack_project_name="gone",dstack_user_name="admin"} 0`,
	} {
		if !strings.Contains(string(a.Body), line+"\n") {
			t.Errorf("no line %s in\n%s", line, a.Body)
		}
	}
}
