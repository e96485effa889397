package sim

import (
	"fmt"
	"maps"
	"slices"
	"strings"
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

// TestGPUsGoneWhenAJobIsSent has a GPU fall off before the server hears of it, and a job that wants all of the host sent
// there: the job waits on the host until they are all there, and does not begin with fewer. Where they do not come it
// ends after some minutes. One that needs none begins.
func TestGPUsGoneWhenAJobIsSent(t *testing.T) {
	tp := newTemplate(t)
	for name, tt := range map[string]struct {
		gpu     any
		back    bool
		at, end string // the status before, and in the end
	}{
		"and back":    {"1..", true, "pulling", "done"},
		"for good":    {"1..", false, "pulling", "failed"},
		"none needed": {"0..", false, "running", "done"},
	} {
		t.Run(name, func(t *testing.T) {
			withHost(t, tp, func(h *agent) { h.gpus = 2 }, func(t *testing.T, w *world, h *agent) {
				w.applyFleet("hosts", w.sshFleet(h.name))
				time.Sleep(time.Minute)
				h.mu.Lock()
				h.gpus = 1
				h.mu.Unlock()
				w.applyRun("all", object{"type": "task", "commands": []string{"work"}, "resources": object{"gpu": tt.gpu}, "creation_policy": "reuse"},
					script{Run: 5 * time.Minute, Lines: 1})
				time.Sleep(2 * time.Minute)
				if _, status := w.tries("all"); status != tt.at {
					t.Errorf("with one of two GPUs the job is %s, want %s", status, tt.at)
				}
				if tt.back {
					h.lists(2)
				}
				time.Sleep(20 * time.Minute)
				if n, status := w.tries("all"); n != 1 || status != tt.end {
					t.Errorf("in the end the job is %s after %d attempts, want %s", status, n, tt.end)
				}
				w.endAll()
				time.Sleep(5 * time.Minute)
				w.checks.check(over)
				w.holds()
			})
		})
	}
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
// until its GPUs are there, and so do the other nodes. Where they never come it ends after some minutes, with the
// reason, and the machine with it.
func TestDriverComesLate(t *testing.T) {
	const late, never = 40 * time.Second, 24 * time.Hour
	tp := newTemplate(t)
	for name, tt := range map[string]struct {
		drivers []time.Duration // of the machines that are made
		nodes   int
		blocks  int
		runs    int
		status  string // in the end
	}{
		"after a while":               {[]time.Duration{late}, 1, 1, 1, "done"},
		"of a machine that is shared": {[]time.Duration{late}, 1, 8, 2, "done"},
		"of one of two nodes":         {[]time.Duration{0, late}, 2, 1, 1, "done"},
		"never":                       {[]time.Duration{never}, 1, 1, 1, "failed"},
		"never of one of two nodes":   {[]time.Duration{0, never}, 2, 1, 1, "failed"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1, tp)
				cloud := w.addCloud(fake.Config{Name: cloudNames[0], Offers: fake.SomeOffers(), Boot: 10 * time.Second, Deletion: time.Second})
				w.addCloud(fake.Config{Name: cloudNames[1]})
				w.drivers = tt.drivers
				w.start()
				defer w.end()
				time.Sleep(time.Minute)
				fleet := object{"nodes": object{"min": 0, "max": len(tt.drivers)}, "blocks": tt.blocks, "instance_types": []string{"gpu.eight"}, "idle_duration": 60}
				if tt.nodes > 1 {
					fleet["placement"] = "cluster"
				}
				w.applyFleet("nodes", fleet)
				for n := range tt.runs {
					w.applyRun(fmt.Sprint("run", n), object{"type": "task", "nodes": tt.nodes, "commands": []string{"work"}, "resources": object{"gpu": "1.."},
						"retry": object{"on_events": []string{"no-capacity"}, "duration": "1h"}}, script{Run: time.Minute, Lines: 1})
				}
				time.Sleep(30 * time.Second)
				w.mu.Lock()
				hosts := slices.Collect(maps.Values(w.machines))
				w.mu.Unlock()
				if len(hosts) != len(tt.drivers) {
					t.Errorf("%d machines answer after half a minute, want %d", len(hosts), len(tt.drivers))
				}
				for _, h := range hosts {
					if n := h.had(); n != 0 {
						t.Errorf("a host has had %d tasks when not all GPUs are there", n)
					}
				}
				time.Sleep(15 * time.Minute)
				want := slices.Repeat([]string{tt.status}, tt.runs)
				if got := w.texts(`SELECT status FROM run`); !slices.Equal(got, want) {
					t.Errorf("the runs are %v, want %v", got, want)
				}
				if n := len(w.checks.now().jobs); n != tt.runs*tt.nodes {
					t.Errorf("%d attempts, want one for each of %d jobs", n, tt.runs*tt.nodes)
				}
				if said := strings.Join(w.texts(`SELECT data FROM job`), " "); strings.Contains(said, "0 of 8 GPUs are there") != (tt.status == "failed") {
					t.Errorf("the reason: %s", said)
				}
				if n := len(cloud.Invoice(w.serverID)); n != len(tt.drivers) {
					t.Errorf("%d machines were made, want %d", n, len(tt.drivers))
				}
				if live := cloud.Live(); len(live) != 1 { // a stranger's
					t.Errorf("left: %v", live)
				}
				w.holds()
			})
		})
	}
}
