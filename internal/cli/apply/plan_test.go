package apply

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/config"
)

func task(t *testing.T, yaml string) api.RunSpec {
	t.Helper()
	f, err := config.Parse("task.yml", []byte("type: task\nname: train\ncommands: [a]\n"+yaml))
	if err != nil {
		t.Fatal(err)
	}
	return api.RunSpec{RunName: f.Run.Common().Name, Configuration: *f.Run}
}

// TestDecide: what is asked, and what a yes does, by what exists.
func TestDecide(t *testing.T) {
	current := func(status api.RunStatus, yaml string) *api.Run {
		return &api.Run{Status: status, RunSpec: task(t, yaml)}
	}
	unnamed := task(t, "")
	unnamed.RunName = nil
	for name, tt := range map[string]struct {
		plan api.RunPlan
		want decision
	}{
		"new": {
			api.RunPlan{RunSpec: task(t, ""), Action: api.ActionCreate},
			decision{question: "Submit the run train?", done: "submitted"},
		},
		"new without a name": {
			api.RunPlan{RunSpec: unnamed, Action: api.ActionCreate},
			decision{question: "Submit a new run?", done: "submitted"},
		},
		"an ended one is no obstacle": {
			api.RunPlan{RunSpec: task(t, "max_duration: 1h"), CurrentResource: current(api.RunDone, ""), Action: api.ActionCreate},
			decision{question: "Submit the run train?", done: "submitted"},
		},
		"the same": {
			api.RunPlan{RunSpec: task(t, ""), CurrentResource: current(api.RunRunning, ""), Action: api.ActionUpdate},
			decision{
				message:  "Active run train already exists. Detected no changes.",
				question: "Stop and override the run?", override: true, same: true, done: "submitted",
			},
		},
		"changed in place": {
			api.RunPlan{RunSpec: task(t, "priority: 7"), CurrentResource: current(api.RunRunning, ""), Action: api.ActionUpdate},
			decision{
				message: "Active run train already exists. Detected changes that can be updated in-place:\n" +
					"- Configuration properties:\n  - priority\n",
				question: "Update the run?", done: "updated",
			},
		},
		"replaced": {
			api.RunPlan{RunSpec: task(t, "max_duration: 1h"), CurrentResource: current(api.RunRunning, ""), Action: api.ActionCreate},
			decision{
				message: "Active run train already exists. Detected changes that cannot be updated in-place:\n" +
					"- Configuration properties:\n  - max_duration\n",
				question: "Stop and override the run?", override: true, done: "submitted",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := decide(tt.plan)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(decision{})); diff != "" {
				t.Errorf("decision (-want +got):\n%s", diff)
			}
		})
	}
}
