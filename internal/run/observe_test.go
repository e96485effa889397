package run

import (
	"testing"

	"dstack/internal/agentapi"
)

func TestOlder(t *testing.T) {
	task := func(s agentapi.State, started bool) agentapi.Task {
		return agentapi.Task{State: s, Started: started}
	}
	for name, c := range map[string]struct {
		a, b agentapi.Task
		want bool
	}{
		"an answer after the end":       {task(agentapi.Running, true), task(agentapi.Terminated, true), true},
		"the end":                       {task(agentapi.Terminated, true), task(agentapi.Running, true), false},
		"an end before the start":       {task(agentapi.Terminated, false), task(agentapi.Pulling, false), false},
		"an answer after the start":     {task(agentapi.Running, false), task(agentapi.Running, true), true},
		"the start":                     {task(agentapi.Running, true), task(agentapi.Running, false), false},
		"the same":                      {task(agentapi.Running, true), task(agentapi.Running, true), false},
		"a word of a newer agent":       {task("resting", false), task(agentapi.Pulling, false), true},
		"after a word of a newer agent": {task(agentapi.Pulling, false), task("resting", false), false},
	} {
		if got := older(c.a, c.b); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
