package install

import (
	"os"
	"path/filepath"
	"testing"
)

// Nothing is taken off a host while Docker, which has containers of ours, does not answer.
func TestRuntimesWhileDockerIsAway(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin)
	t.Setenv("DOCKER_HOST", "unix://"+filepath.Join(bin, "none.sock"))
	for _, c := range []struct {
		name                   string
		installed, task, plain bool
		refused                bool
	}{
		{name: "no Docker", task: true},
		{name: "no tasks", installed: true},
		{name: "jobs without containers", installed: true, task: true, plain: true},
		{name: "tasks", installed: true, task: true, refused: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			home, dockerd := t.TempDir(), filepath.Join(bin, "dockerd")
			_ = os.Remove(dockerd) // of another case
			if c.installed {
				if err := os.WriteFile(dockerd, []byte("#!/bin/sh\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if c.task {
				if err := os.MkdirAll(filepath.Join(home, "tasks", "d27130f5-ef7b-41b5-8180-200bc215bacf"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			if c.plain {
				if err := os.WriteFile(envPath(home), []byte(formatEnv(map[string]string{runtimeVar: "process"})), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			list, err := runtimesOf(t.Context(), "agent", home)
			if refused := err != nil; refused != c.refused || !refused && len(list) != 1 {
				t.Errorf("%d runtimes, %v", len(list), err)
			}
		})
	}
}
