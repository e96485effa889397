package runner

import (
	"path/filepath"
	"testing"
)

func TestPlace(t *testing.T) {
	const dir = "/task"
	code := filepath.Join(dir, "work") // what a process has in the place of /workflow
	for _, tt := range []struct {
		path, process, container string
	}{
		{"/workflow", code, "/workflow"},
		{"/workflow/", code, "/workflow"},
		{"/workflow/a/b", filepath.Join(code, "a", "b"), "/workflow/a/b"},
		{"/workflow/../a", "/a", "/a"},
		{"/workflows", "/workflows", "/workflows"},
		{"/srv/code", "/srv/code", "/srv/code"},
		{"code", "/base/code", "/base/code"},
		{"~/code", "/home/me/code", "/home/me/code"},
	} {
		for container, want := range map[bool]string{false: tt.process, true: tt.container} {
			r := &runner{Config: Config{Dir: dir, Container: container}, acct: account{home: "/home/me"}}
			if got, err := r.place(tt.path, "/base"); err != nil || got != want {
				t.Errorf("%s, in a container %v: %s, %v, want %s", tt.path, container, got, err, want)
			}
		}
	}
}
