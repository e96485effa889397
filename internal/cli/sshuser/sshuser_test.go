package sshuser

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLookup(t *testing.T) {
	home := t.TempDir()
	write(t, filepath.Join(home, ".ssh", "config"), `Include conf.d/*
Host git.* !git.bad
  User = alice
  IdentityFile "~/.ssh/work"
Match all
  Port 1
Host *
	Port 2222
	User nobody
`)
	write(t, filepath.Join(home, ".ssh", "conf.d", "a"), "Host git.example\n  HostName real.example\n")
	for host, want := range map[string]Options{
		"git.example": {HostName: "real.example", User: "alice", Port: "2222", IdentityFile: filepath.Join(home, ".ssh", "work")},
		"git.bad":     {User: "nobody", Port: "2222"},
	} {
		if diff := cmp.Diff(want, Lookup(home, host)); diff != "" {
			t.Errorf("Lookup(%q) (-want +got):\n%s", host, diff)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
