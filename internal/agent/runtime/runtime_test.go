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
	"testing"
	"time"

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

// A runner whose agent was killed before it had written down which process it is, is found and can be ended.
func TestProcessThatIsNotWrittenDown(t *testing.T) {
	id, dir := "d27130f5-ef7b-41b5-8180-200bc215bacf", t.TempDir()
	c := runtime.Container{ID: id, Dir: filepath.Join(dir, id, runtime.JobDir), Blobs: filepath.Join(dir, id, "blobs")}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(agentapi.JobSpec{JobID: id, Command: []string{"sleep", "60"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.Dir, "spec.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := runtime.NewProcess(dir, agent).Start(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(c.Dir, "runner.pid")); err != nil {
		t.Fatal(err)
	}
	next := runtime.NewProcess(dir, agent)
	t.Cleanup(func() {
		if err := next.Remove(context.Background(), id); err != nil {
			t.Error(err)
		}
	})
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
