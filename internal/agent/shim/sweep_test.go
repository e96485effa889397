package shim

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/agent/gpu"
	"dstack/internal/agent/runtime"
	"dstack/internal/agentapi"
)

// Containers that no task needs are removed after some minutes, others never.
func TestRemoveOrphans(t *testing.T) {
	e := newEngine()
	for _, id := range []string{"live", "ended", "unknown", "late"} {
		if err := e.Start(t.Context(), runtime.Container{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	s := &Shim{Config: Config{Runtime: e, Log: slog.New(slog.DiscardHandler)}, gpus: gpu.NewLocks(nil), tasks: map[string]*task{
		"live":  {state: agentapi.Task{State: agentapi.Running}},
		"ended": {state: agentapi.Task{State: agentapi.Terminated}},
	}}
	now, seen := time.Now(), orphans{}
	left := func() []string { return slices.Sorted(maps.Keys(e.boxes)) }
	for _, step := range []struct {
		after time.Duration
		do    func()
		want  []string
	}{
		{0, func() {}, []string{"ended", "late", "live", "unknown"}},
		{orphanAge - 1, func() { s.tasks["late"] = &task{} }, []string{"ended", "late", "live", "unknown"}}, // its task came
		{orphanAge, func() {}, []string{"late", "live"}},
		{2 * orphanAge, func() { delete(s.tasks, "late") }, []string{"late", "live"}}, // seen anew
		{3 * orphanAge, func() {}, []string{"live"}},
		{4 * orphanAge, func() {}, []string{"live"}},
	} {
		step.do()
		s.removeOrphans(t.Context(), now.Add(step.after), seen)
		if diff := cmp.Diff(step.want, left()); diff != "" {
			t.Errorf("after %v (-want +got):\n%s", step.after, diff)
		}
	}
	if len(seen) != 0 {
		t.Errorf("remembered for nothing: %v", seen)
	}
}

// As long as a container of a task that has ended may run, nobody else gets its GPUs, also after a restart of the agent.
func TestGPUsOfAContainerThatIsLeft(t *testing.T) {
	stuck := errors.New("tried to kill container, but did not receive an exit event")
	for name, c := range map[string]struct {
		remove error
		silent bool // it does not say which GPUs it has, like a plain process
	}{
		"left": {stuck, false}, "left without labels": {stuck, true}, "removed": {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEngine()
			fail := func(_ context.Context, call, _ string) error {
				switch call {
				case "start":
					return errors.New("the engine does not answer in time") // and has started it
				case "remove":
					return c.remove
				}
				return nil
			}
			e.setGate(fail)
			old := run(t, newHome(t), e, withGPUs(1))
			s := spec()
			s.GPUs = 1
			old.put(s)
			old.reaches(s.ID, agentapi.Terminated)
			next := func(a *agent) string {
				e.setGate(func(ctx context.Context, call, id string) error {
					if id != s.ID {
						return nil
					}
					return fail(ctx, call, id)
				})
				v := spec()
				v.GPUs = 1
				a.put(v)
				return v.ID
			}
			if c.remove == nil {
				old.reaches(next(old), agentapi.Running)
				return
			}
			first := next(old)
			old.waits(first)
			old.terminate(first, agentapi.Terminate{Reason: agentapi.TerminatedByUser})
			old.reaches(first, agentapi.Terminated)
			old.stop()
			if c.silent {
				e.box(s.ID).gpus = nil
			}
			a := run(t, old.home, e, withGPUs(1))
			after := next(a)
			a.waits(after)
			e.setGate(nil)
			if err := a.Delete(t.Context(), s.ID); err != nil {
				t.Fatal(err)
			}
			a.reaches(after, agentapi.Running)
		})
	}
}

// While the engine does not answer nobody knows what is left of a task that is over: its GPUs stay with it.
func TestGPUsWhileTheEngineIsAway(t *testing.T) {
	e := newEngine()
	old := run(t, newHome(t), e, withGPUs(2))
	over, goesOn := spec(), spec()
	over.GPUs, goesOn.GPUs = 1, 1
	old.put(over)
	old.reaches(over.ID, agentapi.Running)
	old.finish(over.ID, 0)
	old.reaches(over.ID, agentapi.Terminated)
	old.put(goesOn) // with the GPU that the other had
	old.reaches(goesOn.ID, agentapi.Running)
	left := spec()
	left.GPUs = 1
	old.put(left)
	old.reaches(left.ID, agentapi.Running)
	e.setGate(func(_ context.Context, call, id string) error {
		if call == "list" || call == "remove" && id == left.ID {
			return errors.New("the engine does not answer")
		}
		return nil
	})
	old.finish(left.ID, 0)
	old.reaches(left.ID, agentapi.Terminated)
	old.stop()
	a := run(t, old.home, e, withGPUs(2))
	if v := a.get(goesOn.ID); v.State != agentapi.Running || !slices.Equal(v.GPUs, []string{"a"}) {
		t.Errorf("the task that goes on: %+v", v)
	}
	next := spec()
	next.GPUs = 1
	a.put(next)
	a.waits(next.ID)
	e.setGate(nil)
	if err := a.Delete(t.Context(), left.ID); err != nil {
		t.Fatal(err)
	}
	if v := a.reaches(next.ID, agentapi.Running); !slices.Equal(v.GPUs, []string{"b"}) {
		t.Errorf("the next: %+v", v)
	}
}

// The sweep gives GPUs back once the container that kept them has ended, whether or not it can be removed.
func TestSweepReleasesGPUs(t *testing.T) {
	e := newEngine()
	gpus := gpu.NewLocks([]agentapi.GPU{{ID: "a"}, {ID: "b"}})
	s := &Shim{Config: Config{Runtime: e, Log: slog.New(slog.DiscardHandler)}, gpus: gpus, news: make(chan struct{}), tasks: map[string]*task{
		"live":  {state: agentapi.Task{State: agentapi.Preparing}}, // its container comes yet
		"ended": {state: agentapi.Task{State: agentapi.Terminated}},
	}}
	for _, id := range []string{"live", "ended"} {
		if _, err := gpus.Acquire(id, 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := e.Start(t.Context(), runtime.Container{ID: "ended"}); err != nil {
		t.Fatal(err)
	}
	owners := func() []string {
		s.removeOrphans(t.Context(), time.Now(), orphans{})
		return slices.Sorted(slices.Values(gpus.Owners()))
	}
	if got := owners(); !slices.Equal(got, []string{"ended", "live"}) {
		t.Errorf("while it runs %q hold GPUs", got)
	}
	select {
	case <-s.news:
		t.Error("the host has changed before")
	default:
	}
	e.end("ended", runtime.Exit{})
	if got := owners(); !slices.Equal(got, []string{"live"}) {
		t.Errorf("after its end %q hold GPUs", got)
	}
	select {
	case <-s.news:
	default:
		t.Error("nobody is told that the host has its GPUs again")
	}
}

// GPUs that what is left of a task holds are not among those of the host until they are free, so that the server sends
// no jobs for them. It hears of both by an end of its stream.
func TestHostWithoutGPUsThatAreHeld(t *testing.T) {
	for name, free := range map[string]func(a *agent, id string) *agent{
		"deleted": func(a *agent, id string) *agent {
			if err := a.Delete(a.t.Context(), id); err != nil {
				a.t.Error(err)
			}
			return a
		},
		"ended before an agent later": func(a *agent, id string) *agent {
			a.engine.end(id, runtime.Exit{})
			a.stop()
			return run(a.t, a.home, a.engine, withGPUs(2))
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEngine()
			a := run(t, newHome(t), e, withGPUs(2))
			looks := func(when, warning string, ids ...string) {
				t.Helper()
				info, err := a.Host(t.Context())
				var got []string
				for _, g := range info.GPUs {
					got = append(got, g.ID)
				}
				for _, g := range info.HeldGPUs {
					got = append(got, "held "+g.ID)
				}
				if said := strings.Join(info.Warnings, "; "); err != nil || !slices.Equal(got, ids) || said != warning || info.GPUs == nil {
					t.Errorf("%s the host has %q (%s), want %q (%s), %v", when, got, said, ids, warning, err)
				}
			}
			ends := func(when string, l *ear) {
				t.Helper()
				select {
				case <-l.done:
				case <-time.After(20 * time.Second):
					t.Errorf("%s the stream goes on", when)
				}
			}
			looks("before", "", "a", "b")
			s, l := spec(), a.listen()
			s.GPUs = 1
			e.setGate(func(_ context.Context, call, _ string) error {
				if call == "start" || call == "remove" {
					return errors.New("the engine does not answer in time") // and has started it
				}
				return nil
			})
			a.put(s)
			ends("with the end of the task", l)
			a.reaches(s.ID, agentapi.Terminated)
			looks("while it is left", "1 of 2 GPUs are held by what is left of tasks that have ended: "+s.ID, "b", "held a")
			l = a.listen()
			e.setGate(nil)
			a = free(a, s.ID)
			ends("with what was left", l)
			looks("when it is gone", "", "a", "b")
		})
	}
}
