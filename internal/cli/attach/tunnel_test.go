package attach

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"dstack/internal/cli/attach/attachtest"
)

func newSigner(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// echo answers every connection with what it says, in upper case, after its end.
func echo(t *testing.T) *net.TCPAddr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				b, _ := io.ReadAll(c)
				_, _ = c.Write([]byte(strings.ToUpper(string(b))))
				_ = c.Close()
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr)
}

func say(t *testing.T, port int) string {
	t.Helper()
	c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestTunnel(t *testing.T) {
	key := newSigner(t)
	app := echo(t)
	job := attachtest.Serve(t, "root", key.PublicKey(), map[string]string{"localhost:8000": app.String()})
	host := attachtest.Serve(t, "ubuntu", key.PublicKey(), map[string]string{"localhost:10022": job.Addr.String()})
	fs, err := Reserve(t.Context(), "127.0.0.1", []Port{{Remote: 8000, Local: freePort(t)}})
	if err != nil {
		t.Fatal(err)
	}
	lost := make(chan error, 16)
	tun := &Tunnel{
		Route: Route{
			{Alias: "train-host", Hostname: "127.0.0.1", Port: host.Addr.Port, User: "ubuntu"},
			{Alias: "train", Hostname: "localhost", Port: 10022, User: "me", Tunnel: "root"},
		},
		Signer:   func(string) (ssh.Signer, error) { return key, nil },
		Forwards: fs,
		OnLost:   func(err error) { lost <- err },
	}
	if err := tun.Connect(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { tun.Run(ctx) })
	if got := say(t, fs[0].Local); got != "HELLO" {
		t.Errorf("through the tunnel: %q, want HELLO", got)
	}
	host.Drop()
	<-lost
	if got := say(t, fs[0].Local); got != "HELLO" {
		t.Errorf("after the connection broke: %q, want HELLO", got)
	}
	cancel()
	wg.Wait()
}

func TestConnectRefused(t *testing.T) {
	tun := &Tunnel{
		Route:  Route{{Hostname: "127.0.0.1", Port: freePort(t), User: "u"}},
		Signer: func(string) (ssh.Signer, error) { return newSigner(t), nil },
	}
	start := time.Now()
	if err := tun.Connect(t.Context(), 2); !errors.Is(err, ErrConnect) {
		t.Errorf("Connect = %v, want ErrConnect", err)
	}
	if d := time.Since(start); d < firstRetry {
		t.Errorf("two attempts took %v, want a pause between them", d)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

func TestReserve(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = busy.Close() }()
	n := busy.Addr().(*net.TCPAddr).Port

	_, err = Reserve(t.Context(), "", []Port{{Remote: 1234, Local: n}})
	if in, ok := errors.AsType[*PortInUseError](err); !ok || in.Port != n {
		t.Errorf("Reserve of a busy port = %v, want PortInUseError for %d", err, n)
	}
	fs, err := Reserve(t.Context(), "", []Port{{Remote: n}, {Remote: 80, Local: freePort(t)}})
	if err != nil {
		t.Fatal(err)
	}
	defer Release(fs)
	if fs[0].Remote != 80 || fs[1].Local <= n {
		t.Errorf("forwards = %+v, %+v, want the explicit one first and a port after %d", fs[0], fs[1], n)
	}
}

func TestSSHConfig(t *testing.T) {
	home := t.TempDir()
	c := SSHConfig{Path: filepath.Join(home, ".dstack", "ssh", "config"), Home: home, Login: home}
	key := filepath.Join(home, ".dstack", "ssh", "1f0c9a3b")
	r := Route{
		{Alias: "train-host", Hostname: "203.0.113.17", Port: 22, User: "ubuntu", Identity: key},
		{Alias: "train", Hostname: "localhost", Port: 32771, User: "root", Identity: key},
	}
	if err := c.Put(Host{Name: "other", Options: [][2]string{{"Port", "1"}}}); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time changes nothing
		if err := c.Put(r.Hosts()...); err != nil {
			t.Fatal(err)
		}
	}
	want := `Host other
    Port 1
Host train-host
    HostName 203.0.113.17
    Port 22
    User ubuntu
    IdentityFile ~/.dstack/ssh/1f0c9a3b
    IdentitiesOnly yes
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
Host train
    HostName localhost
    Port 32771
    User root
    IdentityFile ~/.dstack/ssh/1f0c9a3b
    IdentitiesOnly yes
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    ProxyJump train-host
`
	if diff := cmp.Diff(want, read(t, c.Path)); diff != "" {
		t.Errorf("ssh config (-want +got):\n%s", diff)
	}
	if err := c.Remove(r.Aliases()...); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("Host other\n    Port 1\n", read(t, c.Path)); diff != "" {
		t.Errorf("after Remove (-want +got):\n%s", diff)
	}
}

func TestInclude(t *testing.T) {
	for name, tt := range map[string]struct{ have, want string }{
		"no file":         {"", "Include ~/.dstack/ssh/config\n"},
		"users' own":      {"Host a\n    Port 1\n", "Include ~/.dstack/ssh/config\n\nHost a\n    Port 1\n"},
		"already there":   {"# mine\nInclude ~/.dstack/ssh/config\nHost a\n", "# mine\nInclude ~/.dstack/ssh/config\nHost a\n"},
		"only for a host": {"Host a\nInclude ~/.dstack/ssh/config\n", "Include ~/.dstack/ssh/config\n\nHost a\nInclude ~/.dstack/ssh/config\n"},
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			c := SSHConfig{Path: filepath.Join(home, ".dstack", "ssh", "config"), Home: home, Login: home}
			if err := os.MkdirAll(filepath.Dir(c.Path), 0o700); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(home, ".ssh", "config")
			if tt.have != "" {
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(tt.have), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				if err := c.Include(); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(tt.want, read(t, path)); diff != "" {
				t.Errorf("~/.ssh/config (-want +got):\n%s", diff)
			}
		})
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
