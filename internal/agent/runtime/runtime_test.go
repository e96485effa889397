package runtime_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"dstack/internal/agent/agenttest"
	"dstack/internal/agent/runtime"
	"dstack/internal/agent/runtime/runtimetest"
	"dstack/internal/agentapi"
)

var agent string // the agent's binary

func TestMain(m *testing.M) {
	os.Exit(agenttest.Main(m, func(binary string) { agent = binary }))
}

// TestConformance runs the suite on plain processes, and where TEST_DOCKER says that there
// is an engine, on containers.
func TestConformance(t *testing.T) {
	t.Run("process", func(t *testing.T) {
		dir := t.TempDir()
		runtimetest.Run(t, runtimetest.Harness{Tasks: dir, New: func() runtime.Runtime { return runtime.NewProcess(dir, agent) }})
	})
	if os.Getenv("TEST_DOCKER") == "" {
		return
	}
	t.Run("docker", func(t *testing.T) {
		dir := t.TempDir()
		defer uploadsAreReadOnly(t, dir)
		runtimetest.Run(t, runtimetest.Harness{Tasks: filepath.Join(dir, "tasks"), Image: jobImage(t, "sh"), New: func() runtime.Runtime {
			d, err := runtime.NewDocker(agent, dir)
			if err != nil {
				t.Fatal(err)
			}
			return d
		}})
	})
}

// A task runs without its runner as long as a process of its job does, which may have a GPU.
func TestJobWithoutItsRunner(t *testing.T) {
	dir := t.TempDir()
	p := runtime.NewProcess(dir, agent)
	held := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(held, 0o600); err != nil {
		t.Fatal(err)
	}
	// The end of the terminal, which the runner has, is a hangup.
	id := startProcess(t, p, dir, "/bin/sh", "-c", "trap '' HUP; exec cat "+held)
	hold, err := os.OpenFile(held, os.O_WRONLY, 0) // once the job has opened it
	if err != nil {
		t.Fatal(err)
	}
	running := func() bool {
		found, err := runtime.NewProcess(dir, agent).List(t.Context())
		if err != nil || len(found) != 1 || found[0].ID != id {
			t.Fatalf("%+v (%v)", found, err)
		}
		return found[0].Running
	}
	var runner int
	data, err := os.ReadFile(filepath.Join(dir, id, runtime.JobDir, "runner.pid"))
	if _, serr := fmt.Sscan(string(data), &runner); err != nil || serr != nil {
		t.Fatal(err, serr)
	}
	if err := syscall.Kill(runner, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if !running() {
		t.Error("its job is taken for ended with the runner")
	}
	hold.Close() // the end of what the job reads, and of the job
	for deadline := time.Now().Add(20 * time.Second); running(); {
		if time.Now().After(deadline) {
			t.Fatal("the job has ended, and is taken for running")
		}
		<-time.After(5 * time.Millisecond)
	}
}

// A runner whose agent was killed before it had written down which process it is, is found and can be ended.
func TestProcessThatIsNotWrittenDown(t *testing.T) {
	dir := t.TempDir()
	next := runtime.NewProcess(dir, agent)
	id := startProcess(t, runtime.NewProcess(dir, agent), dir, "sleep", "60")
	if err := os.Remove(filepath.Join(dir, id, runtime.JobDir, "runner.pid")); err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := next.Wait(soon, id); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for its end: %v", err)
	}
	if err := next.Kill(t.Context(), id); err != nil {
		t.Errorf("ending it: %v", err)
	}
	if _, err := next.Wait(t.Context(), id); err != nil {
		t.Errorf("its end: %v", err)
	}
}

// An agent that was started in a job's terminal has the job's environment. What it starts does not end with the job.
func TestTaskOfAnAgentThatWasStartedFromAJob(t *testing.T) {
	dir := t.TempDir()
	p := runtime.NewProcess(dir, agent)
	job := startProcess(t, p, dir, "sleep", "60")
	t.Setenv("DSTACK_JOB_ID", job)
	task := startProcess(t, p, dir, "sleep", "60")
	if err := p.Remove(t.Context(), job); err != nil {
		t.Error(err)
	}
	if found, err := p.List(t.Context()); err != nil || len(found) != 1 || found[0].ID != task || !found[0].Running {
		t.Errorf("there are %+v, want %s to run (%v)", found, task, err)
	}
}

// startProcess starts a task, which is ended with the test.
func startProcess(t *testing.T, p *runtime.Process, dir string, command ...string) (id string) {
	t.Helper()
	id = uuid.NewString()
	c := runtime.Container{ID: id, Dir: filepath.Join(dir, id, runtime.JobDir), Blobs: filepath.Join(dir, id, "blobs")}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(agentapi.JobSpec{JobID: id, Command: command})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.Dir, "spec.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Remove(context.Background(), id); err != nil {
			t.Error(err)
		}
	})
	if err := p.Start(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	return id
}

// uploadsAreReadOnly checks that no job can change what the next one with the same code gets.
func uploadsAreReadOnly(t *testing.T, dir string) {
	t.Helper()
	d, err := runtime.NewDocker(agent, dir)
	if err != nil {
		t.Fatal(err)
	}
	task := filepath.Join(dir, "tasks", "shared")
	c := runtime.Container{ID: "shared", Name: "shared", Dir: filepath.Join(task, runtime.JobDir), Blobs: filepath.Join(task, "blobs")}
	c.Spec.Image = jobImage(t, "cat")
	c.Spec.Job = agentapi.JobSpec{Command: []string{"/bin/sh", "-c", "echo changed >>/dstack/blobs/upload; echo new >/dstack/blobs/new; cat /dstack/blobs/upload"}}
	for _, d := range []string{c.Dir, c.Blobs} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := json.Marshal(c.Spec.Job)
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string]string{filepath.Join(c.Dir, "spec.json"): string(data), filepath.Join(c.Blobs, "upload"): "uploaded\n"} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Start(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Wait(t.Context(), c.ID); err != nil {
		t.Error(err)
	}
	if err := d.Remove(t.Context(), c.ID); err != nil {
		t.Error(err)
	}
	log, err := os.ReadFile(filepath.Join(c.Dir, "job.log"))
	if err != nil || !strings.HasSuffix(string(log), "\nuploaded\n") {
		t.Errorf("the job read %q (%v)", log, err)
	}
	if entries, err := os.ReadDir(c.Blobs); err != nil || len(entries) != 1 {
		t.Errorf("%v %v", entries, err)
	}
	if data, err := os.ReadFile(filepath.Join(c.Blobs, "upload")); err != nil || string(data) != "uploaded\n" {
		t.Errorf("the upload is %q (%v)", data, err)
	}
}

// jobImage imports an image that holds BusyBox, with a command of its own.
func jobImage(t *testing.T, command string) string {
	t.Helper()
	box, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("dstack-runtime-test:%s-%d", command, os.Getpid())
	script := fmt.Sprintf(`set -e; d=$(mktemp -d); trap 'rm -rf "$d"' EXIT; mkdir "$d/bin"; cp %[1]s "$d/bin/busybox"
for a in sh sleep cat echo ls env id; do ln -s busybox "$d/bin/$a"; done
tar -C "$d" -c . | docker import -c 'ENV PATH=/bin FROM_IMAGE=yes' -c 'WORKDIR /srv' -c 'CMD ["%[2]s"]' - %[3]s`, box, command, name)
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("import an image: %v\n%s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("docker", "rmi", "-f", name).Run() })
	return name
}
