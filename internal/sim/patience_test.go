package sim

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// TestStopIsPatient breaks the connection to a host for a moment while a job there takes its time to end: it is not
// given up for that, and gets all the time that it may take.
func TestStopIsPatient(t *testing.T) {
	tp := newTemplate(t)
	withHost(t, tp, nil, func(t *testing.T, w *world, h *agent) {
		w.applyFleet("nodes", w.sshFleet(h.name))
		time.Sleep(time.Minute)
		task := object{"type": "task", "commands": []string{"work"}, "resources": object{"cpu": "1..", "memory": "1GB.."}}
		w.applyRun("one", task, script{Run: 24 * time.Hour, Stop: 3 * time.Minute})
		time.Sleep(2 * time.Minute)
		w.stopRun("one", false)
		time.Sleep(time.Minute)
		h.cut(20 * time.Second)
		h.dropLinks()
		time.Sleep(time.Minute)
		if got := w.texts(`SELECT status FROM job`); !slices.Equal(got, []string{"terminating"}) {
			t.Errorf("two minutes after the stop the job is %q", got)
		}
		time.Sleep(5 * time.Minute)
		if got := w.texts(`SELECT status FROM job`); !slices.Equal(got, []string{"terminated"}) {
			t.Errorf("the job is %q", got)
		}
		id := w.texts(`SELECT id FROM job`)[0]
		if log := string(w.storedLog(id)); !strings.Contains(log, "interrupted") {
			t.Errorf("its last words are missing: %q", log)
		}
	})
}
