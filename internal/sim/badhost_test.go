package sim

import (
	"testing"
	"time"
)

// TestHostThatDoesNotFit wants a host in more parts than it can be divided into: it is refused, and nothing
// of ours stays on it.
func TestHostThatDoesNotFit(t *testing.T) {
	tp := newTemplate(t)
	withHost(t, tp, nil, func(t *testing.T, w *world, h *agent) {
		w.applyFleet("hosts", object{"ssh_config": w.sshFleet(h.name)["ssh_config"], "blocks": 3})
		time.Sleep(time.Minute)
		if s := w.checks.now(); len(s.instances) != 1 || s.instances[0].status != "terminated" || h.hasAgent() {
			t.Errorf("instances %+v, the agent is there: %v; want one that is terminated, and no agent", s.instances, h.hasAgent())
		}
		w.deleteFleets("hosts")
		time.Sleep(time.Minute)
		w.checks.check(over)
		w.holds()
	})
}

// TestHostUnderTwoNames adds a host a second time by another name, while a job runs on it: the job goes on.
func TestHostUnderTwoNames(t *testing.T) {
	tp := newTemplate(t)
	withHost(t, tp, nil, func(t *testing.T, w *world, h *agent) {
		w.hosts["alias.example"] = h
		w.applyFleet("hosts", w.sshFleet(h.name))
		time.Sleep(time.Minute)
		w.applyRun("one", object{"type": "task", "commands": []string{"work"}}, script{Run: 10 * time.Minute, Lines: 3})
		time.Sleep(time.Minute)
		w.applyFleet("again", w.sshFleet("alias.example"))
		time.Sleep(15 * time.Minute)
		s := w.checks.now()
		if len(s.jobs) != 1 || s.jobs[0].reason != "done_by_runner" {
			t.Errorf("jobs %+v, want one that is done", s.jobs)
		}
		for _, inst := range s.instances {
			if want := map[string]string{"hosts-0": "idle", "again-0": "terminated"}[inst.name]; inst.status != want {
				t.Errorf("instance %s is %s, want %s", inst.name, inst.status, want)
			}
		}
		w.holds()
	})
}

// TestHostTwiceAtOnce adds a host without an agent by two names at a time, to one fleet: it is one instance.
func TestHostTwiceAtOnce(t *testing.T) {
	tp := newTemplate(t)
	withHost(t, tp, nil, func(t *testing.T, w *world, h *agent) {
		w.hosts["alias.example"] = h
		w.applyFleet("hosts", w.sshFleet(h.name, "alias.example"))
		time.Sleep(10 * time.Minute)
		idle := 0
		for _, inst := range w.checks.now().instances {
			if inst.status == "idle" {
				idle++
			}
		}
		if idle != 1 {
			t.Errorf("one host is %d instances that are idle", idle)
		}
	})
}
