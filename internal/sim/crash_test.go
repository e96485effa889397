package sim

import (
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/backend/fake"
)

// life is a story without faults, to be interrupted at every effect.
type life struct {
	fleet object
	run   object // nil for none
	nodes int    // jobs of the run; machines of the fleet when there is none
}

// TestCrashEverywhere kills the server before and after every call to a cloud or a host and
// after every pass that stored something, one at a time, in the life of an instance, of a cluster with its
// placement group, of a run and of a gang. Each time the story must end as without the crash.
func TestCrashEverywhere(t *testing.T) {
	tp := newTemplate(t)
	parts := runtime.GOMAXPROCS(0) // that run beside each other
	small := object{"cpu": "1..", "memory": "1GB.."}
	for name, l := range map[string]life{
		"instance": {fleet: object{"nodes": object{"min": 1, "max": 1}}, nodes: 1},
		"cluster":  {fleet: object{"nodes": object{"min": 2, "max": 2}, "placement": "cluster"}, nodes: 2},
		"run": {
			fleet: object{"nodes": object{"min": 0, "max": 1}, "idle_duration": 30},
			run:   object{"type": "task", "commands": []string{"work"}, "resources": small}, nodes: 1,
		},
		"gang": {
			fleet: object{"nodes": object{"min": 0, "max": 3}, "placement": "cluster", "idle_duration": 30},
			run:   object{"type": "task", "commands": []string{"work"}, "resources": small, "nodes": 3}, nodes: 3,
		},
	} {
		t.Run(name, func(t *testing.T) {
			effects := l.tell(t, tp, 0)
			if effects < 10 {
				t.Fatalf("only %d effects were seen", effects)
			}
			t.Logf("killing at each of %d effects", effects)
			for part := range parts {
				t.Run(fmt.Sprintf("%d of %d", part+1, parts), func(t *testing.T) {
					t.Parallel()
					for n := 1 + part; n <= effects && !t.Failed(); n += parts {
						l.tell(t, tp, n)
					}
				})
			}
		})
	}
}

// tell runs the story with a crash at an effect, 0 for none, and returns how many effects
// there were.
func (l life) tell(t *testing.T, tp template, crashAt int) (effects int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, tp)
		for _, name := range cloudNames {
			w.addCloud(fake.Config{Name: name, Offers: fake.SomeOffers(), Boot: 20 * time.Second, Latency: 200 * time.Millisecond, Deletion: 3 * time.Second})
		}
		w.crashAt, w.exhaustive = crashAt, true
		w.start()
		defer w.end()
		w.sleepUntil(w.began.Add(time.Second))
		w.insist(func() int { return w.applyFleet("nodes", l.fleet) })
		if l.run != nil {
			w.insist(func() int {
				return w.applyRun("one", l.run, script{Pull: time.Second, Run: 20 * time.Second, Lines: 3})
			})
		}
		w.sleepUntil(w.began.Add(4 * time.Minute))
		w.checks.check(settled)
		l.judge(w)
		w.sleepUntil(w.began.Add(5 * time.Minute))
		w.insist(func() int { return w.deleteFleets("nodes") })
		w.sleepUntil(w.began.Add(8 * time.Minute))
		w.checks.check(over)
		if r := w.result(false); len(r.Violations) > 0 {
			t.Errorf("killed at effect %d: %q\n%s", crashAt, r.Violations, r.Trace)
		}
		effects = w.boundary
	})
	return effects
}

// insist has the user try again until a server answers.
func (w *world) insist(do func() int) {
	for do() == 0 {
		w.sleepUntil(time.Now().Add(time.Second))
	}
}

// judge says what is not as it should be in the middle of the story.
func (l life) judge(w *world) {
	s := w.checks.now()
	if l.run == nil {
		idle := 0
		for _, inst := range s.instances {
			if inst.status == "idle" {
				idle++
			}
		}
		if len(s.machines) != l.nodes || idle != l.nodes {
			w.checks.violate("story", fmt.Sprintf("%d machines, instances %v, want %d idle", len(s.machines), s.instances, l.nodes))
		}
		l.judgeGroups(w, s)
		return
	}
	for _, r := range s.runs {
		if r.status != "done" {
			w.checks.violate("story", "the run is "+r.status)
		}
	}
	if len(s.jobs) != l.nodes {
		w.checks.violate("story", fmt.Sprintf("%d jobs, want each once: %v", len(s.jobs), s.jobs))
	}
}

// judgeGroups says whether all machines of a cluster are in one group.
func (l life) judgeGroups(w *world, s *state) {
	want := 0
	if l.fleet["placement"] == "cluster" {
		want = 1
	}
	if len(s.groups) != want || want > 0 && len(s.groups[0].members) != l.nodes {
		w.checks.violate("story", fmt.Sprintf("groups %v, want %d with all machines", s.groups, want))
	}
}
