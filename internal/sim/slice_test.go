package sim

import (
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/backend/fake"
)

// TestOneRun is the smallest world: one cloud, one run, no faults.
func TestOneRun(t *testing.T) {
	tp := newTemplate(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, tp)
		for _, name := range cloudNames {
			w.addCloud(fake.Config{Name: name, Offers: fake.SomeOffers(), Boot: 30 * time.Second, Latency: 300 * time.Millisecond, Deletion: 5 * time.Second})
		}
		w.start()
		defer w.end()
		time.Sleep(time.Second)
		w.applyFleet("cpu", object{"nodes": object{"min": 0, "max": 3}, "idle_duration": 60})
		w.applyRun("one", object{"type": "task", "commands": []string{"work"}}, script{Run: time.Minute, Lines: 5, Pull: time.Second})
		time.Sleep(10 * time.Minute)
		w.checks.check(settled)
		w.endAll()
		time.Sleep(10 * time.Minute)
		w.checks.check(over)
		r := w.result(true)
		t.Logf("%d steps, %v\n%s", r.Steps, r.Injected, r.Trace)
		for _, v := range r.Violations {
			t.Error(v)
		}
	})
}

// TestEndDuringOutage has a job end while no server runs: its log is complete when it is known
// to be over, although the host's list of tasks tells of the end first.
func TestEndDuringOutage(t *testing.T) {
	tp := newTemplate(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, tp)
		for _, name := range cloudNames {
			w.addCloud(fake.Config{Name: name, Offers: fake.SomeOffers(), Boot: 10 * time.Second})
		}
		w.start()
		defer w.end()
		w.applyFleet("nodes", object{"nodes": object{"min": 0, "max": 1}})
		w.applyRun("one", object{"type": "task", "commands": []string{"work"}}, script{Run: time.Minute, Lines: 8})
		time.Sleep(30 * time.Second)
		w.current().kill("in the middle of a job")
		w.restart(2 * time.Minute)
		time.Sleep(time.Minute)
		w.checks.check(settled)
		s := w.checks.now()
		if len(s.jobs) != 1 || s.jobs[0].reason != "done_by_runner" {
			t.Errorf("jobs %v, want one that is done", s.jobs)
		}
		w.holds()
	})
}
