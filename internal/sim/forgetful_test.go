package sim

import (
	"slices"
	"testing"
	"time"

	"dstack/internal/agentapi"
)

// TestForgetfulHost has a host lose all that its agent knew: the job there does not stay running for ever.
func TestForgetfulHost(t *testing.T) {
	tp := newTemplate(t)
	withHost(t, tp, nil, func(t *testing.T, w *world, h *agent) {
		w.applyFleet("nodes", w.sshFleet(h.name))
		time.Sleep(time.Minute)
		work := object{"type": "task", "commands": []string{"work"}, "resources": object{"cpu": "1..", "memory": "1GB.."}}
		w.applyRun("one", work, script{Run: 24 * time.Hour})
		time.Sleep(2 * time.Minute)
		h.mu.Lock()
		for _, id := range h.order {
			h.tasks[id].finish(agentapi.ExecutorError, "its disk is another one", nil)
		}
		h.tasks, h.order = map[string]*task{}, nil
		close(h.down)
		h.down = make(chan struct{})
		h.tell()
		h.mu.Unlock()
		time.Sleep(2 * time.Minute)
		w.applyRun("two", work, script{Run: time.Second})
		time.Sleep(2 * time.Minute)
		if got := w.texts(`SELECT name || ' is ' || status FROM run ORDER BY submitted_at`); !slices.Equal(got, []string{"one is failed", "two is done"}) {
			t.Errorf("runs: %q", got)
		}
	})
}
