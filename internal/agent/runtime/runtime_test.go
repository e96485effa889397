package runtime_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"dstack/internal/agent/agenttest"
	"dstack/internal/agent/runtime"
	"dstack/internal/agent/runtime/runtimetest"
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
		runtimetest.Run(t, runtimetest.Harness{Tasks: filepath.Join(dir, "tasks"), Image: jobImage(t, "sh"), New: func() runtime.Runtime {
			d, err := runtime.NewDocker(agent, dir)
			if err != nil {
				t.Fatal(err)
			}
			return d
		}})
	})
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
