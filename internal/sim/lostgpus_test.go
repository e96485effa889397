package sim

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/backend/fake"
)

// tries is how many jobs of a run there have been, and the status of the last.
func (w *world) tries(run string) (n int, status string) {
	for _, j := range w.checks.now().jobs {
		if j.name == run+"-0-0" {
			n, status = n+1, j.status
		}
	}
	return n, status
}

// had is how many tasks a host has had.
func (h *agent) had() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.count
}

// TestHostLosesItsGPUs has a host's driver gone while one job runs on it and another waits for it with retry: that one
// is not sent there again and again, but when the GPUs are back; the first goes on.
func TestHostLosesItsGPUs(t *testing.T) {
	tp := newTemplate(t)
	withHost(t, tp, func(h *agent) { h.gpus = 2 }, func(t *testing.T, w *world, h *agent) {
		fleet := w.sshFleet(h.name)
		fleet["blocks"] = 2
		w.applyFleet("hosts", fleet)
		time.Sleep(time.Minute)
		run := func(name string) {
			w.applyRun(name, object{"type": "task", "commands": []string{"work"}, "resources": object{"gpu": 1}, "creation_policy": "reuse",
				"retry": object{"on_events": []string{"no-capacity", "error"}, "duration": "3h"}}, script{Run: 20 * time.Minute, Lines: 1})
		}
		run("runs")
		time.Sleep(time.Minute)
		h.lists(0)
		time.Sleep(time.Minute)
		run("waits")
		time.Sleep(10 * time.Minute)
		h.lists(1) // not all of them
		time.Sleep(2 * time.Minute)
		if n := h.had(); n != 1 {
			t.Errorf("without its GPUs the host has had %d tasks, want that of the job that runs", n)
		}
		if n, status := w.tries("runs"); n != 1 || status != "running" {
			t.Errorf("the job on the host is %s at its attempt %d", status, n)
		}
		h.lists(2)
		time.Sleep(time.Minute)
		if _, status := w.tries("waits"); status != "running" || h.had() != 2 {
			t.Errorf("when the GPUs are back the job that waited is %s, the host has had %d tasks", status, h.had())
		}
		time.Sleep(time.Hour)
		for _, run := range []string{"runs", "waits"} {
			if _, status := w.tries(run); status != "done" {
				t.Errorf("job %s is %s in the end", run, status)
			}
		}
		w.endAll()
		time.Sleep(5 * time.Minute)
		w.checks.check(over)
		w.holds()
	})
}

// TestMachineLosesItsGPUs has the same happen to a machine of a cloud that is idle: the next job gets another one, and
// this one is given back.
func TestMachineLosesItsGPUs(t *testing.T) {
	tp := newTemplate(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, tp)
		w.addCloud(fake.Config{Name: cloudNames[0], Offers: fake.SomeOffers(), Boot: 10 * time.Second, Deletion: time.Second})
		w.addCloud(fake.Config{Name: cloudNames[1]})
		w.start()
		defer w.end()
		time.Sleep(time.Minute)
		w.applyFleet("nodes", object{"nodes": object{"min": 0, "max": 2}, "idle_duration": "10m"})
		run := func(name string) {
			w.applyRun(name, object{"type": "task", "commands": []string{"work"}, "resources": object{"gpu": 1}, "idle_duration": "10m"},
				script{Run: time.Minute, Lines: 1})
			time.Sleep(3 * time.Minute)
		}
		run("first")
		w.mu.Lock()
		for _, h := range w.machines {
			go h.lists(0)
		}
		w.mu.Unlock()
		time.Sleep(time.Minute)
		run("second")
		if _, status := w.tries("second"); status != "done" {
			t.Errorf("the second job is %s", status)
		}
		at := map[string]bool{}
		for _, j := range w.checks.now().jobs {
			at[j.instance] = true
		}
		if len(at) != 2 {
			t.Errorf("the jobs ran on %d machines, want 2", len(at))
		}
		time.Sleep(time.Hour)
		for _, inst := range w.checks.now().instances {
			if inst.status != "terminated" {
				t.Errorf("instance %s is %s in the end", inst.name, inst.status)
			}
		}
		w.endAll()
		time.Sleep(5 * time.Minute)
		w.checks.check(over)
		w.holds()
	})
}

// TestDriverComesLate has the driver of a machine come up after its agent: the job that the machine was made for waits
// until its GPUs are there. Where they never come it ends after some minutes, with the reason, and the machine with it.
func TestDriverComesLate(t *testing.T) {
	tp := newTemplate(t)
	for name, tt := range map[string]struct {
		after    time.Duration
		blocks   int
		runs     []string // how they end
		reason   string   // of the first's job
		machines int
	}{
		"after a while":               {40 * time.Second, 1, []string{"done"}, "done_by_runner", 1},
		"of a machine that is shared": {40 * time.Second, 8, []string{"done", "done"}, "done_by_runner", 1},
		"never":                       {24 * time.Hour, 1, []string{"failed"}, "waiting_runner_limit_exceeded", 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, tp)
				cloud := w.addCloud(fake.Config{Name: cloudNames[0], Offers: fake.SomeOffers(), Boot: 10 * time.Second, Deletion: time.Second})
				w.addCloud(fake.Config{Name: cloudNames[1]})
				w.drivers = tt.after
				w.start()
				defer w.end()
				time.Sleep(time.Minute)
				w.applyFleet("nodes", object{"nodes": object{"min": 0, "max": 1}, "blocks": tt.blocks, "instance_types": []string{"gpu.eight"}, "idle_duration": 60})
				for n := range tt.runs {
					w.applyRun(fmt.Sprint("run", n), object{"type": "task", "commands": []string{"work"}, "resources": object{"gpu": "1.."},
						"retry": object{"on_events": []string{"no-capacity"}, "duration": "1h"}}, script{Run: time.Minute, Lines: 1})
				}
				time.Sleep(15 * time.Minute)
				for n, want := range tt.runs {
					if tries, status := w.tries(fmt.Sprint("run", n)); tries != 1 || status != want {
						t.Errorf("run %d is %s after %d attempts, want %s after one", n, status, tries, want)
					}
				}
				if got := w.checks.now().jobs[0].reason; got != tt.reason {
					t.Errorf("the first job ended because of %s, want %s", got, tt.reason)
				}
				if n := len(cloud.Invoice(w.serverID)); n != tt.machines {
					t.Errorf("%d machines were made, want %d", n, tt.machines)
				}
				if live := cloud.Live(); len(live) != 1 { // a stranger's
					t.Errorf("left: %v", live)
				}
				w.holds()
			})
		})
	}
}
