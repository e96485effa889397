package host

import (
	"log/slog"
	"testing"

	"github.com/google/uuid"

	"dstack/internal/agentapi"
)

// A host with more tasks than it can have does not keep the server busy with them, and what runs is not left out.
func TestSensible(t *testing.T) {
	c := &conn{pool: &Pool{Config: Config{Log: slog.New(slog.DiscardHandler)}}}
	tasks := []agentapi.Task{{ID: "no id", State: agentapi.Running}}
	for range 2 * maxTasks {
		tasks = append(tasks, agentapi.Task{ID: uuid.NewString(), State: agentapi.Terminated})
	}
	last := &tasks[len(tasks)-1]
	last.State = agentapi.Running
	if got := c.sensible(tasks[:3]); len(got) != 2 || got[0].ID != tasks[1].ID {
		t.Errorf("%+v", got)
	}
	if got := c.sensible(tasks); len(got) != maxTasks || got[0].ID != last.ID {
		t.Errorf("%d tasks of %d", len(got), len(tasks))
	}
}
