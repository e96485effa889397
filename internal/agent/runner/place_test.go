package runner

import "testing"

func TestPlace(t *testing.T) {
	for _, tt := range []struct {
		path, process, container string
	}{
		{"/workflow", "/task/work", "/workflow"},
		{"/workflow/", "/task/work", "/workflow"},
		{"/workflow/a/b", "/task/work/a/b", "/workflow/a/b"},
		{"/workflow/../a", "/a", "/a"},
		{"/workflows", "/workflows", "/workflows"},
		{"/srv/code", "/srv/code", "/srv/code"},
		{"code", "/base/code", "/base/code"},
		{"~/code", "/home/me/code", "/home/me/code"},
	} {
		for container, want := range map[bool]string{false: tt.process, true: tt.container} {
			r := &runner{Config: Config{Dir: "/task", Container: container}, acct: account{home: "/home/me"}}
			if got, err := r.place(tt.path, "/base"); err != nil || got != want {
				t.Errorf("%s, in a container %v: %s, %v, want %s", tt.path, container, got, err, want)
			}
		}
	}
}
