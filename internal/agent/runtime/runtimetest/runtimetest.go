// Package runtimetest is the conformance suite of agent runtimes.
package runtimetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"dstack/internal/agent/runner"
	"dstack/internal/agent/runtime"
	"dstack/internal/agentapi"
)

// Harness is a runtime under test.
type Harness struct {
	// Tasks is the folder of the tasks.
	Tasks string
	// New returns the runtime of an agent that starts, also while containers of an earlier
	// one run.
	New func() runtime.Runtime
	// Image has /bin/sh, sleep and cat.
	Image string
}

// Run checks that a runtime is one.
func Run(t *testing.T, h Harness) {
	t.Run("RunsAJobToItsEnd", h.runsAJob)
	t.Run("StartIsIdempotent", h.startTwice)
	t.Run("ACancelledStartLeavesNothing", h.startCancelled)
	t.Run("ContainersOutliveTheAgent", h.outlives)
	t.Run("KillEndsEverything", h.kill)
	t.Run("UnknownContainers", h.unknown)
	t.Run("ListKnowsAllOfOurs", h.list)
	t.Run("WaitEndsWithItsContext", h.waitCancelled)
	t.Run("TheSSHServerIsReached", h.ports)
}

func (h Harness) container(t *testing.T, script string) runtime.Container {
	t.Helper()
	id := uuid.NewString()
	c := runtime.Container{ID: id, Name: "conformance-0-0", Dir: filepath.Join(h.Tasks, id, runtime.JobDir), Blobs: filepath.Join(h.Tasks, id, "blobs"), Spec: agentapi.TaskSpec{
		ID: id, Name: "conformance-0-0", Image: h.Image, Network: "bridge",
		Job: agentapi.JobSpec{JobID: id, Command: []string{"/bin/sh", "-c", script}},
	}}
	for _, dir := range []string{c.Dir, c.Blobs} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(c.Blobs, "upload"), []byte("uploaded"), 0o644); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(c.Spec.Job)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.Dir, runner.SpecFile), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

// started starts a container and removes it at the end of the test.
func (h Harness) started(t *testing.T, r runtime.Runtime, script string) runtime.Container {
	t.Helper()
	c := h.container(t, script)
	t.Cleanup(func() {
		if err := r.Remove(context.Background(), c.ID); err != nil {
			t.Error(err)
		}
	})
	if err := r.Pull(t.Context(), c, func(agentapi.PullProgress) {}); err != nil {
		t.Fatalf("pull: %v", err)
	}
	if err := r.Start(t.Context(), c); err != nil {
		t.Fatalf("start: %v", err)
	}
	return c
}

func log(c runtime.Container) string {
	data, _ := os.ReadFile(filepath.Join(c.Dir, runner.JobLogFile)) // not there yet
	return string(data)
}

// until polls: what happens in containers is told through files.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// startCancelled ends starts at many moments.
func (h Harness) startCancelled(t *testing.T) {
	r := h.New()
	left := func() []runtime.Found {
		found, err := r.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	for _, after := range []time.Duration{0, time.Millisecond, 3 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond, 40 * time.Millisecond, 80 * time.Millisecond, 160 * time.Millisecond} {
		c := h.container(t, "sleep 60")
		if err := r.Pull(t.Context(), c, func(agentapi.PullProgress) {}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), after)
		_ = r.Start(ctx, c) // with or without success
		cancel()
		if err := r.Remove(t.Context(), c.ID); err != nil {
			t.Error(err)
		}
		if found := left(); len(found) > 0 {
			t.Errorf("ended after %v: %v is left", after, found)
		}
	}
	if found := left(); len(found) > 0 {
		t.Errorf("at the end %v is left", found)
	}
}

func (h Harness) runsAJob(t *testing.T) {
	r := h.New()
	c := h.started(t, r, "echo hello; exit 7")
	exit, err := r.Wait(t.Context(), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	s, err := runner.ReadState(c.Dir)
	if err != nil || s.Phase != runner.Finished || s.ExitStatus == nil || *s.ExitStatus != 7 {
		t.Errorf("state %+v (%v), the container ended with %+v", s, err, exit)
	}
	if got := log(c); got != "hello\n" {
		t.Errorf("log %q", got)
	}
	if err := r.Remove(t.Context(), c.ID); err != nil {
		t.Error(err)
	}
	if err := r.Remove(t.Context(), c.ID); err != nil {
		t.Errorf("removing it again: %v", err)
	}
}

func (h Harness) startTwice(t *testing.T) {
	r := h.New()
	c := h.started(t, r, "echo begun; cat")
	if err := r.Start(t.Context(), c); err != nil {
		t.Fatalf("the second start: %v", err)
	}
	until(t, "the job runs", func() bool { return strings.Contains(log(c), "begun") })
	if err := h.New().Start(t.Context(), c); err != nil {
		t.Fatalf("the start of another agent: %v", err)
	}
	if got := log(c); strings.Count(got, "begun") != 1 {
		t.Errorf("the job ran more than once: %q", got)
	}
}

func (h Harness) outlives(t *testing.T) {
	c := h.started(t, h.New(), "echo begun; while [ ! -e "+h.file(t)+" ]; do sleep 0.1; done; exit 4")
	until(t, "the job runs", func() bool { return strings.Contains(log(c), "begun") })
	next := h.New()
	ended := make(chan error, 1)
	go func() {
		_, err := next.Wait(t.Context(), c.ID)
		ended <- err
	}()
	select {
	case err := <-ended:
		t.Fatalf("the new agent takes a running job for ended: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	if err := next.Kill(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// file names a file that nobody makes.
func (h Harness) file(t *testing.T) string { return "/none-" + strings.ReplaceAll(t.Name(), "/", "-") }

func (h Harness) kill(t *testing.T) {
	r := h.New()
	c := h.started(t, r, "trap '' INT TERM HUP; (trap '' INT TERM HUP; while :; do echo child; sleep 0.1; done) & echo begun; wait")
	until(t, "the job and its child run", func() bool { return strings.Contains(log(c), "begun") && strings.Contains(log(c), "child") })
	if err := r.Kill(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Wait(t.Context(), c.ID); err != nil {
		t.Error(err)
	}
	raw := filepath.Join(c.Dir, runner.RawLogFile)
	before, err := os.Stat(raw)
	if err != nil {
		t.Fatal(err)
	}
	<-time.After(300 * time.Millisecond)
	if after, err := os.Stat(raw); err != nil || after.Size() != before.Size() {
		t.Errorf("something still prints: %v", err)
	}
	if err := r.Kill(t.Context(), c.ID); err != nil && !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("killing it again: %v", err)
	}
}

func (h Harness) unknown(t *testing.T) {
	r := h.New()
	id := uuid.NewString()
	if err := r.Kill(t.Context(), id); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("kill: %v", err)
	}
	if _, err := r.Wait(t.Context(), id); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("wait: %v", err)
	}
	if err := r.Remove(t.Context(), id); err != nil {
		t.Errorf("remove: %v", err)
	}
}

func (h Harness) list(t *testing.T) {
	r := h.New()
	lives := h.started(t, r, "cat")
	ended := h.started(t, r, "true")
	if _, err := r.Wait(t.Context(), ended.ID); err != nil {
		t.Fatal(err)
	}
	list, err := h.New().List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, f := range list {
		got[f.ID] = f.Running
	}
	if running, ok := got[lives.ID]; !ok || !running {
		t.Errorf("the running one is not in %v", list)
	}
	if running, ok := got[ended.ID]; !ok || running {
		t.Errorf("the ended one is not in %v", list)
	}
}

func (h Harness) waitCancelled(t *testing.T) {
	r := h.New()
	c := h.started(t, r, "cat")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := r.Wait(ctx, c.ID)
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want the context's error", err)
	}
}

func (h Harness) ports(t *testing.T) {
	r := h.New()
	c := h.started(t, r, "cat")
	until(t, "the runner says its port", func() bool {
		s, err := runner.ReadState(c.Dir)
		return err == nil && s.SSHPort != 0
	})
	s, err := runner.ReadState(c.Dir)
	if err != nil {
		t.Fatal(err)
	}
	ports, err := r.Ports(t.Context(), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	port, mapped := ports[s.SSHPort]
	if !mapped {
		port = s.SSHPort
	}
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	banner := make([]byte, 14)
	if _, err := conn.Read(banner); err != nil || string(banner) != "SSH-2.0-dstack" {
		t.Errorf("the port answers %q (%v)", banner, err)
	}
}
