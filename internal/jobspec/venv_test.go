package jobspec

import (
	"slices"
	"testing"

	"dstack/internal/api"
	"dstack/internal/config"
)

// TestWithoutVenv has jobs made for a default image that then run on a host without one.
func TestWithoutVenv(t *testing.T) {
	image, python, entrypoint := "debian", config.PythonVersion("3.13"), "/bin/sh -c 'echo a'"
	for name, tt := range map[string]struct {
		change func(*config.Task)
		want   string
	}{
		"default image":  {func(*config.Task) {}, "echo a && echo b"},
		"another Python": {func(c *config.Task) { c.Python = &python }, "echo a && echo b"},
		"own image":      {func(c *config.Task) { c.Image = &image }, "echo a && echo b"},
		"own entrypoint": {func(c *config.Task) { c.Entrypoint = &entrypoint }, "echo b"},
		"commands that only begin like it": {func(c *config.Task) {
			c.Image, c.Commands = &image, []string{"export DSTACK_VENV_DIR=/dstack/venv", "echo a"}
		}, "export DSTACK_VENV_DIR=/dstack/venv && echo a"},
	} {
		task := config.Task{}
		task.Commands = []string{"echo a", "echo b"}
		tt.change(&task)
		argv, err := jobCommands(api.RunSpec{Configuration: config.AnyRun{Task: &task}})
		if err != nil {
			t.Fatal(err)
		}
		last := len(argv) - 1
		if got := WithoutVenv(argv); got[last] != tt.want || !slices.Equal(got[:last], argv[:last]) {
			t.Errorf("%s: %q, want %q at the end", name, got, tt.want)
		}
	}
}
