package sshd

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"
)

// guest is who tries to log in.
type guest struct{ ssh.Context }

func (guest) User() string      { return "guest" }
func (guest) SetValue(any, any) {}

// publicKey is a key and its line of authorized_keys.
func publicKey(t *testing.T) (ssh.PublicKey, string) {
	t.Helper()
	signers, err := hostKeys()
	if err != nil {
		t.Fatal(err)
	}
	return signers[0].PublicKey(), string(gossh.MarshalAuthorizedKey(signers[0].PublicKey()))
}

// A home on a disk that hangs keeps those out whose keys would be there, and nobody else.
func TestLoginWhileAHomeHangs(t *testing.T) {
	job, line := publicKey(t)
	server, serverLine := publicKey(t)
	other, _ := publicKey(t)
	s, err := New(Config{Keys: []string{line}, ServerKey: serverLine, Container: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	looks, hangs, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	s.ownKey = func(string, []byte) bool { close(looks); <-hangs; return false }
	go func() { defer close(done); s.authorize(guest{}, other) }()
	<-looks
	let := make(chan bool, 2)
	go func() {
		for _, key := range []ssh.PublicKey{job, server} {
			let <- s.authorize(guest{}, key)
		}
	}()
	for range 2 {
		select {
		case ok := <-let:
			if !ok {
				t.Error("a key of the job, or of its server, is refused")
			}
		case <-time.After(10 * time.Second):
			t.Fatal("nobody gets in")
		}
	}
	close(hangs)
	<-done
}

// What lies where a user's keys should be is read only if it is a file of sensible size.
func TestKeysOfTheUser(t *testing.T) {
	key, line := publicKey(t)
	for name, c := range map[string]struct {
		lay  func(path string) error
		want bool
	}{
		"a file":  {func(path string) error { return os.WriteFile(path, []byte("# mine\n"+line), 0o600) }, true},
		"nothing": {func(string) error { return nil }, false},
		"others may write": {func(path string) error {
			return errors.Join(os.WriteFile(path, []byte(line), 0o600), os.Chmod(path, 0o622)) // whatever the umask is
		}, false},
		"a pipe": {func(path string) error { return syscall.Mkfifo(path, 0o600) }, false},
		"a huge file": {func(path string) error {
			if err := os.WriteFile(path, []byte(line), 0o600); err != nil {
				return err
			}
			return os.Truncate(path, maxAuthorized+1)
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			dir := filepath.Join(home, ".ssh")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(home, 0o700); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "authorized_keys")
			if err := c.lay(path); err != nil {
				t.Fatal(err)
			}
			got := make(chan bool, 1)
			go func() { got <- keyIn(home, uint32(os.Getuid()), key.Marshal()) }()
			select {
			case ok := <-got:
				if ok != c.want {
					t.Errorf("let in: %v, want %v", ok, c.want)
				}
			case <-time.After(10 * time.Second):
				t.Error("it is waited for for ever")
			}
		})
	}
}
