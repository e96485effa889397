package sim

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestOlderAgent has a host whose agent is of the version before: it knows no exceptions of what is acknowledged, sends
// neither the health of its GPUs nor what DCGM says, and lets no job call the server. Jobs run and end there all the
// same, with their whole logs, also when the log of one cannot be stored for a while; one that wants to call the server
// says that it cannot.
func TestOlderAgent(t *testing.T) {
	tp := newTemplate(t)
	idsFrom(t, 1)
	withHost(t, tp, func(h *agent) { h.older = true }, func(t *testing.T, w *world, h *agent) {
		fleet := w.sshFleet(h.name)
		fleet["blocks"] = 4
		w.applyFleet("nodes", fleet)
		time.Sleep(time.Minute)
		task := func(more ...any) object {
			c := object{"type": "task", "commands": []string{"work"}, "resources": object{"cpu": "1..", "memory": "1GB..", "disk": nil}}
			for i := 0; i < len(more); i += 2 {
				c[more[i].(string)] = more[i+1]
			}
			return c
		}
		w.applyRun("held", task(), script{Run: 6 * time.Minute, Lines: 20})
		w.applyRun("other", task(), script{Run: 3 * time.Minute, Lines: 20})
		w.applyRun("stopped", task("stop_duration", "20s"), script{Run: time.Hour, Stop: 10 * time.Second, Lines: 100})
		time.Sleep(2 * time.Minute)
		id := w.texts(`SELECT j.id FROM job j JOIN run r ON r.id = j.run_id WHERE r.name = 'held'`)[0]
		stored := filepath.Join(w.dir, "logs", id[:2])
		for _, step := range []error{os.Rename(stored, stored+".away"), os.WriteFile(stored, nil, 0o600)} { // where a folder should be
			if step != nil {
				t.Fatal(step)
			}
		}
		w.stopRun("stopped", false)
		time.Sleep(2 * time.Minute)
		if got := w.texts(`SELECT name || ' is ' || status FROM run ORDER BY name`); !slices.Equal(got, []string{"held is running", "other is done", "stopped is terminated"}) {
			t.Errorf("runs: %q while a log cannot be stored", got)
		}
		for _, step := range []error{os.Remove(stored), os.Rename(stored+".away", stored)} {
			if step != nil {
				t.Fatal(step)
			}
		}
		time.Sleep(10 * time.Minute)
		w.applyRun("calls", task("dstack", true), script{Run: time.Minute})
		w.mu.Lock()
		delete(w.wants, "calls") // the server ends its job, which I22 takes for no reason to fail
		w.mu.Unlock()
		time.Sleep(time.Minute)
		if got := w.texts(`SELECT name || ' is ' || status FROM run ORDER BY name`); !slices.Equal(got, []string{"calls is failed", "held is done", "other is done", "stopped is terminated"}) {
			t.Errorf("runs: %q", got)
		}
		if got := w.texts(`SELECT data FROM job ORDER BY submitted_at DESC LIMIT 1`)[0]; !strings.Contains(got, "Could not establish dstack server access") {
			t.Errorf("the job that cannot call the server is %s", got)
		}
		w.checks.mu.Lock()
		for id, f := range w.checks.tasks {
			if stored := w.storedLog(id); !bytes.Equal(stored, f.log) {
				t.Errorf("%d of %d bytes of %s are stored", len(stored), len(f.log), f.name)
			}
		}
		w.checks.mu.Unlock()
		w.endAll()
		w.settle(over, 1)
		w.holds()
		if t.Failed() {
			t.Log(w.trace.text(w.current().db))
		}
	})
}
