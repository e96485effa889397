package shim

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"dstack/internal/agent/runner"
	"dstack/internal/agentapi"
)

// blockAt makes a call wait until its context ends or release is closed.
func blockAt(e *engine, at string) (reached chan string, release chan struct{}) {
	reached, release = make(chan string, 8), make(chan struct{})
	e.setGate(func(ctx context.Context, call, id string) error {
		if call != at {
			return nil
		}
		reached <- id
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	return reached, release
}

// A task that is ended at any step ends for that reason and leaves nothing behind.
func TestTerminateAtEachStep(t *testing.T) {
	for _, step := range append(steps, "running") {
		t.Run(step, func(t *testing.T) {
			e := newEngine()
			reached, _ := blockAt(e, step)
			a := run(t, newHome(t), e)
			s := spec()
			a.put(s)
			if step == "running" {
				a.reaches(s.ID, agentapi.Running)
			} else {
				<-reached
			}
			a.terminate(s.ID, agentapi.Terminate{Reason: agentapi.TerminatedByUser, Message: "enough"})
			a.terminate(s.ID, agentapi.Terminate{Reason: agentapi.TerminatedByServer, Message: "later"})
			if v := a.reaches(s.ID, agentapi.Terminated); v.Reason != agentapi.TerminatedByUser || v.Message != "enough" {
				t.Errorf("%+v", v)
			}
			if e.box(s.ID) != nil {
				t.Error("the container is left")
			}
		})
	}
}

// A job that is to end the moment it runs has the time to end that it was given.
func TestTerminateAsItBegins(t *testing.T) {
	a := run(t, newHome(t), newEngine())
	srv := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	t.Cleanup(func() { srv.Close() })
	var ids []string
	for range 50 {
		s := spec()
		a.put(s)
		l, err := net.Listen("unix", filepath.Join(a.job(s.ID), runner.ControlFile))
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = srv.Serve(l) }() // until Close
		a.reaches(s.ID, agentapi.Running)
		a.terminate(s.ID, agentapi.Terminate{Grace: 300, Reason: agentapi.TerminatedByUser})
		ids = append(ids, s.ID)
	}
	for _, id := range ids {
		if v := a.get(id); v.State != agentapi.Running {
			t.Errorf("%+v", v)
			continue
		}
		a.finish(id, 0)
	}
}

// The server asks for the end of a task until it hears of it: the runner is told once, and again
// when there is less time.
func TestTerminateAgain(t *testing.T) {
	a := run(t, newHome(t), newEngine())
	s := a.running()
	l, err := net.Listen("unix", filepath.Join(a.job(s.ID), runner.ControlFile))
	if err != nil {
		t.Fatal(err)
	}
	var told atomic.Int32
	srv := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { told.Add(1) })}
	go func() { _ = srv.Serve(l) }() // until Close
	t.Cleanup(func() { srv.Close() })
	for range 5 {
		a.terminate(s.ID, agentapi.Terminate{Grace: 300, Reason: agentapi.TerminatedByUser})
	}
	a.until("the runner is told", func() bool { return told.Load() > 0 })
	a.terminate(s.ID, agentapi.Terminate{Grace: 200, Reason: agentapi.TerminatedByServer})
	a.until("the runner is told that there is less time", func() bool { return told.Load() > 1 })
	a.finish(s.ID, 0)
	a.reaches(s.ID, agentapi.Terminated)
	if n := told.Load(); n != 2 {
		t.Errorf("the runner was told %d times, want 2", n)
	}
}

// A runner that does not answer at first is told again, and its job has the time that is left.
func TestTerminateWhileTheRunnerDoesNotAnswer(t *testing.T) {
	t.Parallel() // it waits
	e := newEngine()
	a := run(t, newHome(t), e)
	s := a.running()
	l, err := net.Listen("unix", filepath.Join(a.job(s.ID), runner.ControlFile))
	if err != nil {
		t.Fatal(err)
	}
	graces := make(chan int64, 8)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req agentapi.Terminate
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			t.Error(err)
		}
		if graces <- req.Grace; len(graces) < 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})}
	go func() { _ = srv.Serve(l) }() // until Close
	t.Cleanup(func() { srv.Close() })
	a.terminate(s.ID, agentapi.Terminate{Grace: 300, Reason: agentapi.TerminatedByUser})
	a.until("the runner has heard it", func() bool { return len(graces) == 3 })
	if v := a.get(s.ID); v.State != agentapi.Running {
		t.Errorf("%+v", v)
	}
	if first, _, third := <-graces, <-graces, <-graces; first != 300 || third > 298 || third < 280 {
		t.Errorf("it was told of %d s at first, of %d s in the end", first, third)
	}
	a.finish(s.ID, 0)
	a.reaches(s.ID, agentapi.Terminated)
}

// A container that cannot be killed now is killed later, though nobody asks again, and however much time the first
// request left.
func TestKillThatFails(t *testing.T) {
	e := newEngine()
	a := run(t, newHome(t), e)
	s := a.running()
	l, err := net.Listen("unix", filepath.Join(a.job(s.ID), runner.ControlFile))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	go func() { _ = srv.Serve(l) }() // until Close
	t.Cleanup(func() { srv.Close() })
	var kills atomic.Int32
	e.setGate(func(_ context.Context, call, _ string) error {
		if call == "kill" && kills.Add(1) <= 2 {
			return errors.New("the engine is busy")
		}
		return nil
	})
	a.terminate(s.ID, agentapi.Terminate{Grace: 300, Reason: agentapi.TerminatedByUser})
	a.terminate(s.ID, agentapi.Terminate{Reason: agentapi.TerminatedByUser})
	a.reaches(s.ID, agentapi.Terminated)
}

// A request to end survives the agent that answered it.
func TestTerminateAndCrash(t *testing.T) {
	e := newEngine()
	old := run(t, newHome(t), e)
	s := spec()
	old.put(s)
	old.reaches(s.ID, agentapi.Running)
	// The runner does not listen in this test, and Kill comes late.
	req := agentapi.Terminate{Reason: agentapi.TerminatedByUser, Message: "asked for"}
	data, err := json.Marshal(stored{Task: old.get(s.ID), Ending: &req})
	if err != nil {
		t.Fatal(err)
	}
	old.stop()
	if err := os.WriteFile(filepath.Join(old.dir(s.ID), stateFile), data, 0o600); err != nil {
		t.Fatal(err)
	}
	a := run(t, old.home, e)
	if v := a.reaches(s.ID, agentapi.Terminated); v.Reason != agentapi.TerminatedByUser || v.Message != "asked for" {
		t.Errorf("%+v", v)
	}
}
