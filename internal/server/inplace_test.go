package server

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"dstack/internal/api"
)

// spec is what a client sends for a task or dev environment named name.
func spec(name, configuration string) json.RawMessage {
	return json.RawMessage(`{"run_name": "` + name + `", "ssh_key_pub": "x", "configuration": {"image": "x", ` + configuration + `}}`)
}

func getRun(t *testing.T, s *Server, name string) (run api.Run, raw json.RawMessage) {
	t.Helper()
	s.must(t, "/api/project/main/runs/get", map[string]any{"run_name": name}, &raw)
	if err := json.Unmarshal(raw, &run); err != nil {
		t.Fatal(err)
	}
	return run, raw
}

func applyPlan(spec, current json.RawMessage, force bool) map[string]any {
	return map[string]any{"plan": map[string]any{"run_spec": spec, "current_resource": current}, "force": force}
}

func runEvents(t *testing.T, s *Server, id string) []string {
	t.Helper()
	var events []struct{ Message string }
	s.must(t, "/api/events/list", map[string]any{"target_runs": []string{id}}, &events)
	texts := make([]string, len(events))
	for i, e := range events {
		texts[i] = e.Message
	}
	return texts
}

// What may change of a live run does so at once, and its jobs belong to the new deployment.
func TestUpdateInPlace(t *testing.T) {
	eachServer(t, func(t *testing.T, s *Server) {
		for _, tt := range []struct{ name, before, after, event string }{
			{"task", `"type": "task"`, `"type": "task", "priority": 7`, "Run updated. Deployment: 1. Changed fields: configuration.priority"},
			{"dev", `"type": "dev-environment", "ide": "vscode"`, `"type": "dev-environment", "ide": "vscode", "inactivity_duration": "1h"`,
				"Run updated. Deployment: 1. Changed fields: configuration.inactivity_duration"},
			{"arch", `"type": "task", "resources": {"cpu": "arm:2"}`, `"type": "task", "resources": {"cpu": "2"}`,
				"Run updated. Deployment: 1. Changed fields: configuration.resources"},
			{"same", `"type": "task"`, `"type": "task"`, "Run updated. Deployment: 1"},
		} {
			s.must(t, "/api/project/main/runs/apply", applyPlan(spec(tt.name, tt.before), nil, false), nil)
			_, seen := getRun(t, s, tt.name)
			s.must(t, "/api/project/main/runs/apply", applyPlan(spec(tt.name, tt.after), seen, false), nil)

			run, _ := getRun(t, s, tt.name)
			sub := run.Jobs[0].JobSubmissions[0]
			if run.DeploymentNum != 1 || sub.DeploymentNum != 1 || len(run.Jobs[0].JobSubmissions) != 1 {
				t.Errorf("%s: deployment %d, job of %+v", tt.name, run.DeploymentNum, run.Jobs[0].JobSubmissions)
			}
			if arch := run.Jobs[0].JobSpec.Requirements.Resources.CPU.Arch; arch != nil {
				t.Errorf("%s: the waiting job asks for %s", tt.name, *arch)
			}
			if got := runEvents(t, s, run.ID)[0]; got != tt.event {
				t.Errorf("%s: event %q, want %q", tt.name, got, tt.event)
			}
		}
	})
}

func TestUpdateRefused(t *testing.T) {
	s := newServer(t)
	s.must(t, "/api/project/main/runs/apply", applyPlan(spec("job", `"type": "task"`), nil, false), nil)
	_, first := getRun(t, s, "job")
	more := spec("job", `"type": "task", "priority": 1`)
	s.must(t, "/api/project/main/runs/apply", applyPlan(more, first, false), nil)
	before, now := getRun(t, s, "job")

	for name, tt := range map[string]struct {
		body map[string]any
		want string
	}{
		"another image":  {applyPlan(spec("job", `"type": "task", "env": {"A": "b"}`), now, false), "Cannot override active run. Stop the run first."},
		"that by force":  {applyPlan(spec("job", `"type": "task", "env": {"A": "b"}`), now, true), "Cannot override active run. Stop the run first."},
		"another type":   {applyPlan(spec("job", `"type": "dev-environment"`), now, false), "Cannot override active run. Stop the run first."},
		"nothing seen":   {applyPlan(more, nil, false), "Failed to apply plan. Resource has been changed. Try again or use force apply."},
		"seen before":    {applyPlan(more, first, false), "Failed to apply plan. Resource has been changed. Try again or use force apply."},
		"something else": {applyPlan(more, json.RawMessage(`[1]`), false), "Failed to apply plan. Resource has been changed. Try again or use force apply."},
		"an empty run":   {applyPlan(more, json.RawMessage(`{"id": "`+before.ID+`"}`), false), "Failed to apply plan. Resource has been changed. Try again or use force apply."},
	} {
		a := s.call(t, "POST", "/api/project/main/runs/apply", adminToken, tt.body)
		if a.Status != http.StatusBadRequest || !strings.Contains(string(a.Body), tt.want) {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
		}
	}
	if after, _ := getRun(t, s, "job"); after.DeploymentNum != before.DeploymentNum {
		t.Errorf("deployment %d after refused updates, want %d", after.DeploymentNum, before.DeploymentNum)
	}
	s.must(t, "/api/project/main/runs/apply", applyPlan(more, first, true), nil)
	if after, _ := getRun(t, s, "job"); after.DeploymentNum != 2 {
		t.Errorf("deployment %d after an update by force, want 2", after.DeploymentNum)
	}
}

// A higher priority overtakes at once.
func TestUpdatePriority(t *testing.T) {
	s, err := open(t, t.TempDir(), empty)
	if err != nil {
		t.Fatal(err)
	}
	r := start(t, s)
	for _, name := range []string{"first", "second"} {
		s.must(t, "/api/project/main/runs/apply", applyPlan(spec(name, `"type": "task", "retry": true`), nil, false), nil)
		waitPosition(t, s, name, 0)
	}
	waitPosition(t, s, "second", 2)
	urgent, err := json.Marshal(applyPlan(spec("second", `"type": "task", "retry": true, "priority": 50`), nil, true))
	if err != nil {
		t.Fatal(err)
	}
	if status, body, err := r.post(t.Context(), "/api/project/main/runs/apply", "application/json", bytes.NewReader(urgent)); status != http.StatusOK {
		t.Fatalf("update: %d %s, %v", status, body, err)
	}
	waitPosition(t, s, "second", 1)
	waitPosition(t, s, "first", 2)
	r.stop()
	if err := <-r.ended; err != nil {
		t.Error(err)
	}
	s.shut(t)
}

// waitPosition watches a run until it is at a place of the queue, 0 for any.
func waitPosition(t *testing.T, s *Server, name string, want int) {
	t.Helper()
	for seen := ""; ; {
		var w api.WatchRunResponse
		s.must(t, "/api/project/main/runs/watch", map[string]any{"run_name": name, "seen": seen, "wait": 25}, &w)
		if p := w.Run.Waiting; p != nil && (want == 0 || p.Position == want) {
			return
		}
		if seen == w.Version {
			t.Fatalf("run %s does not get to place %d: %+v", name, want, w.Run.Waiting)
		}
		seen = w.Version
	}
}
