package shim

import (
	"fmt"
	"testing"

	"dstack/internal/agentapi"
)

// A request that creates a task, overtaken by those that end it, starts nothing.
func TestEndedTasksDoNotStart(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, a *agent, s agentapi.TaskSpec){
		"deleted": func(t *testing.T, a *agent, s agentapi.TaskSpec) {
			a.put(s)
			a.terminate(s.ID, agentapi.Terminate{})
			a.reaches(s.ID, agentapi.Terminated)
			if err := a.Delete(t.Context(), s.ID); err != nil {
				t.Fatal(err)
			}
		},
		"terminated before it came": func(t *testing.T, a *agent, s agentapi.TaskSpec) {
			if _, err := a.Terminate(t.Context(), s.ID, agentapi.Terminate{}); !agentapi.IsCode(err, agentapi.CodeNotFound) {
				t.Fatalf("Terminate of an unknown task: %v", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := run(t, newHome(t), newEngine())
			s := spec()
			end(t, a, s)
			if _, err := a.Put(t.Context(), s); !agentapi.IsCode(err, agentapi.CodeConflict) {
				t.Errorf("Put of an ended task: %v, want a conflict", err)
			}
			if tasks, err := a.Tasks(t.Context()); err != nil || len(tasks) != 0 {
				t.Errorf("tasks %v, %v, want none", tasks, err)
			}
		})
	}
}

func TestEndedForgetsTheOldest(t *testing.T) {
	e := newEnded()
	for i := range maxEnded + 2 {
		e.add(fmt.Sprint(i))
		e.add(fmt.Sprint(i)) // told twice
	}
	for id, want := range map[int]bool{0: false, 1: false, 2: true, maxEnded + 1: true} {
		if got := e.has(fmt.Sprint(id)); got != want {
			t.Errorf("remembered task %d: %v, want %v", id, got, want)
		}
	}
	if len(e.ids) != maxEnded {
		t.Errorf("%d tasks are remembered, want %d", len(e.ids), maxEnded)
	}
}
