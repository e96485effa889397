package run

import (
	"slices"
	"testing"

	"dstack/internal/config"
)

func TestWithoutVenv(t *testing.T) {
	image := "debian"
	for name, change := range map[string]func(*config.Task){
		"default image": func(*config.Task) {},
		"own image":     func(c *config.Task) { c.Image = &image },
	} {
		spec := taskWith(func(c *config.Task) { c.Commands = []string{"echo a", "echo b"}; change(c) })
		argv, err := jobCommands(spec)
		if err != nil {
			t.Fatal(err)
		}
		got := withoutVenv(spec.Configuration.Common(), argv)
		if want := "echo a && echo b"; got[len(got)-1] != want || !slices.Equal(got[:3], argv[:3]) {
			t.Errorf("%s: %q, want the commands alone", name, got)
		}
	}
}
