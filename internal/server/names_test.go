package server

import (
	"encoding/json"
	"regexp"
	"testing"

	"dstack/internal/api"
)

// What has no name gets one: a run a pair of words with a number, its jobs theirs.
func TestGeneratedNames(t *testing.T) {
	s := newServer(t)
	var run api.Run
	unnamed := json.RawMessage(`{"ssh_key_pub": "x", "configuration": {"type": "task", "image": "x", "nodes": 2}}`)
	s.must(t, "/api/project/main/runs/apply", applyPlan(unnamed, nil, false), &run)
	if name := *run.RunSpec.RunName; !regexp.MustCompile(`^[a-z]+-[a-z]+-1$`).MatchString(name) {
		t.Errorf("run %q", name)
	}
	for i, suffix := range []string{"-0-0", "-1-0"} {
		if got, want := run.Jobs[i].JobSpec.JobName, *run.RunSpec.RunName+suffix; got != want {
			t.Errorf("job %q, want %q", got, want)
		}
	}
}
