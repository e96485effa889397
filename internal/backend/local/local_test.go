package local

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"dstack/internal/agentapi"
	"dstack/internal/agentbin"
	"dstack/internal/backend"
	"dstack/internal/backend/backendtest"
	"dstack/internal/offer"
)

// TestConformance runs the suite with real agents.
func TestConformance(t *testing.T) {
	agents := agentbin.New()
	backendtest.Run(t, func(t *testing.T, _ http.RoundTripper) backendtest.Subject {
		// A socket's path is bounded, and the names of tests are long.
		dir, err := os.MkdirTemp("", "local")
		if err != nil {
			t.Fatal(err)
		}
		b, err := Type(agents).Open(t.Context(), &Config{}, backend.Deps{Dir: dir, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { endAll(t, b, dir) })
		return backendtest.Subject{
			Backend: b, Patience: 30 * time.Second,
			Foreign: func(t *testing.T) backend.Ref {
				offers, err := b.Offers(t.Context(), offer.Query{})
				if err != nil {
					t.Fatal(err)
				}
				inst, err := b.Create(t.Context(), backend.CreateRequest{Token: uuid.NewString(), Name: "other", Offer: offers[0]})
				if err != nil {
					t.Fatal(err)
				}
				return inst.Ref
			},
		}
	})
}

// An agent of another build is replaced, and one that was killed is started once more to
// end its tasks.
func TestAgentIsReplaced(t *testing.T) {
	dir, err := os.MkdirTemp("", "local")
	if err != nil {
		t.Fatal(err)
	}
	b, err := Type(agentbin.New()).Open(t.Context(), &Config{}, backend.Deps{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { endAll(t, b, dir) })
	req := backend.CreateRequest{Token: uuid.NewString(), Name: "x", Offer: offer.Offer{Region: Name}}
	inst, err := b.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	home := filepath.Dir(inst.Socket)
	ours, err := ask(t.Context(), home)
	if err != nil {
		t.Fatal(err)
	}
	if err := stop(t.Context(), home); err != nil {
		t.Fatal(err)
	}

	// Another build: the same program with something at its end.
	binaries, err := filepath.Glob(filepath.Join(dir, "bin", "dstack-agent-*"))
	if err != nil || len(binaries) != 1 {
		t.Fatal(binaries, err)
	}
	data, err := os.ReadFile(binaries[0])
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, append(data, "another build"...), 0o755); err != nil {
		t.Fatal(err)
	}
	// Both builds run jobs as plain processes, also where an engine answers.
	t.Setenv("DOCKER_HOST", "unix:///nowhere")
	old := exec.Command(other, "shim", "--home", home, "--runtime", "process")
	if err := old.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- old.Wait() }()
	for !answers(t.Context(), home) {
		select {
		case err := <-ended:
			t.Fatal(err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	id := uuid.NewString()
	c := client(home)
	defer c.Close()
	sleep := agentapi.TaskSpec{ID: id, Name: "sleep", Job: agentapi.JobSpec{JobID: id, Command: []string{"sleep", "1000"}}}
	if _, err := c.Put(t.Context(), sleep); err != nil {
		t.Fatal(err)
	}
	// started finds the process of the task.
	started := func() bool {
		tasks, err := c.Tasks(t.Context())
		return err == nil && len(tasks) == 1 && tasks[0].Started && tasks[0].State == agentapi.Running
	}
	for deadline := time.Now().Add(20 * time.Second); !started(); {
		if time.Now().After(deadline) {
			t.Fatal("the task does not start")
		}
		<-time.After(5 * time.Millisecond)
	}

	if _, err := b.Describe(t.Context(), inst.Ref); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the old agent: %v", err)
	}
	if now, err := ask(t.Context(), home); err != nil || now.Hash != ours.Hash || now.InstanceKey != ours.InstanceKey {
		t.Errorf("%+v %v", now, err)
	}
	c.Close()
	if !started() {
		t.Error("the task ended with the old agent")
	}

	pid, err := os.ReadFile(filepath.Join(home, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(string(pid))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := b.Terminate(t.Context(), inst.Ref); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("pgrep", "-f", id).Output(); err == nil {
		t.Errorf("processes are left: %s", out)
	}
	if _, err := os.Stat(home); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder: %v", err)
	}
}

// endAll ends the agents of a folder and removes it.
func endAll(t *testing.T, b backend.Backend, dir string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		m, err := readMeta(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // not an agent's folder
		}
		if err := b.Terminate(ctx, backend.Ref{Region: Name, ID: m.Token}); err != nil {
			t.Errorf("end agent %s: %v", m.Token, err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}
