package sim

import (
	"bytes"
	"slices"
	"testing"
	"time"
)

// TestLeftOver stops a job while its host cannot be reached. The next job gets the host when nothing of the first
// is left there, and what the first printed meanwhile is kept, also where it has ended by itself.
func TestLeftOver(t *testing.T) {
	tp := newTemplate(t)
	for name, lasts := range map[string]time.Duration{"it runs on": 24 * time.Hour, "it ends meanwhile": 5 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			withHost(t, tp, func(h *agent) { h.kill = 10 * time.Second }, func(t *testing.T, w *world, h *agent) {
				w.applyFleet("nodes", w.sshFleet(h.name))
				time.Sleep(time.Minute)
				task := object{"type": "task", "commands": []string{"work"}, "resources": object{"cpu": "1..", "memory": "1GB.."},
					"retry": object{"on_events": []string{"no-capacity"}, "duration": "1h"}}
				w.applyRun("first", task, script{Run: lasts, Lines: int(lasts / (20 * time.Second))})
				time.Sleep(2 * time.Minute)
				h.cut(6 * time.Minute)
				time.Sleep(2 * time.Minute)
				w.stopRun("first", false)
				w.applyRun("next", task, script{Run: 10 * time.Second})
				time.Sleep(10 * time.Minute)
				if got := w.texts(`SELECT name || ' is ' || status FROM run ORDER BY submitted_at`); !slices.Equal(got, []string{"first is terminated", "next is done"}) {
					t.Errorf("runs: %q", got)
				}
				h.mu.Lock()
				most := h.most
				h.mu.Unlock()
				if most != 1 {
					t.Errorf("%d jobs were on the host at a time, want 1", most)
				}
				id := w.texts(`SELECT j.id FROM job j JOIN run r ON r.id = j.run_id WHERE r.name = 'first'`)[0]
				w.checks.mu.Lock()
				printed := w.checks.tasks[id].log
				w.checks.mu.Unlock()
				if stored := w.storedLog(id); !bytes.Equal(stored, printed) {
					t.Errorf("%d of %d bytes are stored", len(stored), len(printed))
				}
				if t.Failed() {
					t.Log(w.trace.text(w.current().db))
				}
			})
		})
	}
}

// TestLeftOverThatStays has a task of before not end on a host that is back: its host is used again all the same.
func TestLeftOverThatStays(t *testing.T) {
	tp := newTemplate(t)
	withHost(t, tp, func(h *agent) { h.kill = 10 * time.Minute }, func(t *testing.T, w *world, h *agent) {
		w.applyFleet("nodes", w.sshFleet(h.name))
		time.Sleep(time.Minute)
		w.applyRun("first", object{"type": "task", "commands": []string{"work"}, "resources": object{"cpu": "1..", "memory": "1GB.."}}, script{Run: 24 * time.Hour})
		time.Sleep(time.Minute)
		h.cut(3 * time.Minute)
		w.stopRun("first", false)
		time.Sleep(2 * time.Minute)
		if got := w.texts(`SELECT r.status || ', ' || i.unreachable FROM run r, instance i`); !slices.Equal(got, []string{"terminated, 1"}) {
			t.Errorf("run and instance %q while the host is away", got)
		}
		time.Sleep(2 * time.Minute)
		if got := w.texts(`SELECT i.status || ', ' || i.unreachable FROM instance i`); !slices.Equal(got, []string{"idle, 0"}) {
			t.Errorf("the instance is %q after the host is back", got)
		}
		time.Sleep(h.kill + 30*time.Minute)
		if got := h.list(); len(got) != 0 {
			t.Errorf("the host, which was connected all the time, still has %+v", got)
		}
	})
}

// TestLeftOverOfAnotherInstance has a server that was overtaken keep its connection to a host, which is removed and added
// again as another instance meanwhile. What that runs is nothing left over, also when the old connection is made anew.
func TestLeftOverOfAnotherInstance(t *testing.T) {
	tp := newTemplate(t)
	withHost(t, tp, nil, func(t *testing.T, w *world, h *agent) {
		w.applyFleet("nodes", w.sshFleet(h.name))
		time.Sleep(time.Minute)
		old := w.overtake(true)
		time.Sleep(30 * time.Second)
		w.deleteFleets("nodes")
		time.Sleep(time.Minute)
		w.applyFleet("nodes", w.sshFleet(h.name))
		time.Sleep(time.Minute)
		w.applyRun("long", object{"type": "task", "commands": []string{"work"}, "resources": object{"cpu": "1..", "memory": "1GB.."}}, script{Run: 24 * time.Hour})
		time.Sleep(time.Minute)
		h.dropLinks()
		time.Sleep(time.Minute)
		old.kill("after it was overtaken")
		if got := w.texts(`SELECT status FROM run`); !slices.Equal(got, []string{"running"}) {
			t.Errorf("the run is %q", got)
			t.Log(w.trace.text(w.current().db))
		}
	})
}
