package shim

import (
	"errors"
	"os"
	"os/user"
	"path/filepath"
	"sync/atomic"
	"testing"

	"dstack/internal/agentapi"
)

// A user's key is on the host for as long as their task, and for longer only if it cannot be removed: then
// the task stays, too, so that somebody knows of it.
func TestHostKeys(t *testing.T) {
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	login := user.User{Uid: me.Uid, Gid: me.Gid, HomeDir: t.TempDir()}
	var broken atomic.Bool
	a := run(t, newHome(t), newEngine(), func(c *Config) {
		c.LookupUser = func(string) (*user.User, error) {
			if broken.Load() {
				return nil, errors.New("no space left on device")
			}
			return &login, nil
		}
	})
	path := filepath.Join(login.HomeDir, ".ssh", "authorized_keys")
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	const own = "ssh-ed25519 OWN me@laptop\n"
	if err := os.WriteFile(path, []byte(own), 0o600); err != nil {
		t.Fatal(err)
	}
	keys := func() string {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	s := spec()
	s.HostUser, s.HostKeys = "bob", []string{"ssh-ed25519 THEIRS bob@desk"}
	with := own + "ssh-ed25519 THEIRS " + marker(s.ID) + "\n"
	a.put(s)
	a.reaches(s.ID, agentapi.Running)
	if got := keys(); got != with {
		t.Errorf("while the task runs: %q", got)
	}
	broken.Store(true)
	a.finish(s.ID, 0)
	a.reaches(s.ID, agentapi.Terminated)
	if err := a.Delete(t.Context(), s.ID); err == nil {
		t.Error("the task is forgotten before its keys are removed")
	}
	broken.Store(false)
	if err := a.Delete(t.Context(), s.ID); err != nil {
		t.Error(err)
	}
	if got := keys(); got != own {
		t.Errorf("after the task: %q", got)
	}
}
