package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"dstack/internal/agent/gpu"
	"dstack/internal/agent/runner"
	"dstack/internal/agent/runtime"
	"dstack/internal/agentapi"
)

// away is what a runtime says of an engine that is being restarted.
func away() error { return fmt.Errorf("%w: %w", runtime.ErrAway, io.EOF) }

// prepared is a task that is about to be started, of an agent without its loops.
func prepared(t *testing.T, e *engine) *task {
	t.Helper()
	s := &Shim{Config: Config{Home: newHome(t), Runtime: e, Log: slog.New(slog.DiscardHandler), OpenLog: openLog, BootID: bootID}, ctx: t.Context(), gpus: gpu.NewLocks(nil), tasks: map[string]*task{}, changed: make(chan struct{})}
	v := s.newTask(spec())
	if err := s.prepare(v.spec); err != nil {
		t.Fatal(err)
	}
	return v
}

// An engine that is restarted while a task is started is waited for, and the job runs once, whatever the engine had
// done when it went.
func TestWaitsForTheEngine(t *testing.T) {
	for _, step := range steps {
		for name, gone := range map[string]time.Duration{"for a moment": 3 * time.Second, "for long": 4 * time.Minute} {
			t.Run(step+" "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := newEngine()
					v := prepared(t, e)
					begin := time.Now()
					calls := 0
					e.setGate(func(_ context.Context, call, _ string) error {
						if call == step && time.Since(begin) < gone {
							calls++
							return away()
						}
						return nil
					})
					if reason, msg := v.launch(t.Context()); reason != "" {
						t.Fatalf("%s: %s after %v", reason, msg, time.Since(begin))
					}
					if late := time.Since(begin) - gone; late > mostPause {
						t.Errorf("noticed %v after it was back", late)
					}
					if calls > 40 {
						t.Errorf("asked %d times", calls)
					}
					if n := e.starts[v.spec.ID]; n != 1 {
						t.Errorf("started %d times", n)
					}
					own, err := os.ReadFile(filepath.Join(v.jobDir(), runner.OwnLogFile))
					if err != nil || strings.Count(string(own), "waited for") != 1 || strings.Count(string(own), "answers again") != 1 {
						t.Errorf("the runner's log: %q (%v)", own, err)
					}
				})
			})
		}
	}
}

// One that does not come back is given up, and what it says for itself is believed at once.
func TestGivesTheEngineUp(t *testing.T) {
	for name, c := range map[string]struct {
		err     error
		between [2]time.Duration
	}{
		"it is stopped":     {away(), [2]time.Duration{enginePatience, enginePatience + mostPause}},
		"the image is none": {&runtime.ImageError{Msg: "no such image"}, [2]time.Duration{0, 0}},
	} {
		for _, step := range []string{"pull", "create"} {
			t.Run(name+" "+step, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := newEngine()
					v := prepared(t, e)
					e.setGate(func(_ context.Context, call, _ string) error {
						if call == step {
							return c.err
						}
						return nil
					})
					begin := time.Now()
					reason, msg := v.launch(t.Context())
					if reason != agentapi.CreatingContainerError || !strings.Contains(msg, c.err.Error()) {
						t.Errorf("%s: %s", reason, msg)
					}
					if took := time.Since(begin); took < c.between[0] || took > c.between[1] {
						t.Errorf("after %v", took)
					}
				})
			})
		}
	}
}

// A job that has begun before the engine went is not started once more: it may be over.
func TestBegunBeforeTheEngineWent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEngine()
		v := prepared(t, e)
		e.setGate(func(_ context.Context, call, id string) error {
			if call != "start" {
				return nil
			}
			if err := os.WriteFile(filepath.Join(v.jobDir(), runner.StateFile), []byte(`{"phase":"running"}`), 0o600); err != nil {
				t.Error(err)
			}
			e.end(id, runtime.Exit{Code: 137})
			return away()
		})
		if reason, msg := v.launch(t.Context()); reason != "" {
			t.Errorf("%s: %s", reason, msg)
		}
		if n := e.starts[v.spec.ID]; n != 1 {
			t.Errorf("started %d times", n)
		}
	})
}

// Who stops a task need not wait for the engine.
func TestStoppedWhileTheEngineIsAway(t *testing.T) {
	for _, step := range []string{"pull", "create"} {
		t.Run(step, func(t *testing.T) {
			e := newEngine()
			var asked atomic.Int32
			e.setGate(func(_ context.Context, call, _ string) error {
				if call != step {
					return nil
				}
				asked.Add(1)
				return away()
			})
			a := run(t, newHome(t), e)
			s := spec()
			a.put(s)
			a.until("the engine is asked", func() bool { return asked.Load() > 0 })
			if v := a.get(s.ID); v.State == agentapi.Terminated {
				t.Fatalf("it has failed: %+v", v)
			}
			a.terminate(s.ID, agentapi.Terminate{Reason: agentapi.TerminatedByUser, Message: "stop"})
			if v := a.reaches(s.ID, agentapi.Terminated); v.Reason != agentapi.TerminatedByUser || v.Message != "stop" {
				t.Errorf("%+v", v)
			}
			if n := asked.Load(); n > 2 {
				t.Errorf("asked %d times", n)
			}
		})
	}
}

// What somebody in the container has put in the place of the runner's log is not written to.
func TestNoteLeavesOtherFilesAlone(t *testing.T) {
	for name, put := range map[string]func(other, path string) error{
		"a link": os.Symlink,
		"a pipe": func(_, path string) error { return unix.Mkfifo(path, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			v := prepared(t, newEngine())
			other := filepath.Join(t.TempDir(), "other")
			path := filepath.Join(v.jobDir(), runner.OwnLogFile)
			if err := errors.Join(os.WriteFile(other, nil, 0o600), os.Remove(path), put(other, path)); err != nil {
				t.Fatal(err)
			}
			v.note("text")
			if data, err := os.ReadFile(other); err != nil || len(data) > 0 {
				t.Errorf("%q (%v)", data, err)
			}
		})
	}
}
