package host_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"dstack/internal/agentapi"
	"dstack/internal/agentbin"
	"dstack/internal/host"
	"dstack/internal/host/hosttest"
)

// script stands for the agent's binary: it does what it is told in the host's folder.
const script = `#!/bin/sh
case $1 in
install)
	echo "$@" >"$ROOT/installed"
	cat >"$ROOT/env"
	if [ -e "$ROOT/refusal" ]; then cat "$ROOT/refusal"; exit 1; fi
	echo '{"arch":"x86","hostname":"box","cpus":4}' ;;
uninstall)
	rm -f "$ROOT/agent" "$ROOT/installed" ;;
esac
`

func hashOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// sink hears from the hosts.
type sink struct {
	mu        sync.Mutex
	pinned    []string
	connected int
	lost      []string
	events    []agentapi.Event
	fail      error
	busy      chan struct{} // Handle waits twice for it, nil for not
}

func (s *sink) Pinned(_, key string) {
	s.mu.Lock()
	s.pinned = append(s.pinned, key)
	s.mu.Unlock()
}

func (s *sink) Connected(context.Context, string, agentapi.HostInfo, []agentapi.Task) {
	s.mu.Lock()
	s.connected++
	s.mu.Unlock()
}

func (s *sink) Disconnected(_ string, err error) {
	s.mu.Lock()
	s.lost = append(s.lost, fmt.Sprint(err))
	s.mu.Unlock()
}

func (s *sink) Handle(_ context.Context, _ string, events []agentapi.Event) error {
	if s.busy != nil {
		<-s.busy
		<-s.busy
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	s.events = append(s.events, events...)
	return nil
}

func (s *sink) see(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

type world struct {
	t    *testing.T
	pool *host.Pool
	sink *sink
	user ssh.Signer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, sink: &sink{}, user: hosttest.NewUser(t)}
	w.pool = host.NewPool(host.Config{Sink: w.sink, Agents: agentbin.Of(map[string][]byte{"amd64": []byte(script), "arm64": []byte("#!/bin/sh\n# arm\n" + script)}), Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(w.pool.Close)
	return w
}

func (w *world) host() *hosttest.Host { return hosttest.New(w.t, w.user.PublicKey()) }

func (w *world) endpoint(h *hosttest.Host) host.Endpoint {
	return host.Endpoint{Addr: h.Addr(), Port: h.Port(), User: "root", Keys: []ssh.Signer{w.user}}
}

func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; <-time.After(5 * time.Millisecond) {
		var yes bool
		w.sink.see(func() { yes = ok() })
		if yes {
			return
		}
		if time.Now().After(deadline) {
			w.sink.see(func() { w.t.Fatalf("not in time: %s; lost: %q", what, w.sink.lost) })
		}
	}
}

func write(t *testing.T, h *hosttest.Host, name, content string) {
	t.Helper()
	path := filepath.Join(h.Root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

const authorized = "home/.ssh/authorized_keys"

func TestOnboard(t *testing.T) {
	w := newWorld(t)
	h := w.host()
	h.Program("uname", `case $1 in -s) echo Linux;; -m) echo aarch64;; esac`)
	write(t, h, authorized, "ssh-ed25519 OLD me@laptop\nssh-ed25519 KNOWN") // no newline at its end
	req := host.OnboardRequest{Endpoint: w.endpoint(h), Env: map[string]string{"TOKEN": "s3cr3t", "LINES": "a\nb"}, AuthorizedKeys: []string{"ssh-ed25519 NEW server", "ssh-ed25519 KNOWN", "broken"}}
	for range 2 {
		done, err := w.pool.Onboard(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if done.Info.Hostname != "box" || done.HostKey != h.Key() || done.JumpKey != "" {
			t.Errorf("%+v", done)
		}
	}
	if !strings.Contains(h.File("agent"), "# arm") {
		t.Error("not the agent for the host's architecture")
	}
	if got := h.File("installed"); got != "install --home "+h.Root+"/var --user root --env-stdin\n" {
		t.Errorf("installed by %q", got)
	}
	var env map[string]string
	if err := json.Unmarshal([]byte(h.File("env")), &env); err != nil || cmp.Diff(req.Env, env) != "" {
		t.Errorf("variables %v (%v)", env, err)
	}
	if got, want := h.File(authorized), "ssh-ed25519 OLD me@laptop\nssh-ed25519 KNOWN\nssh-ed25519 NEW # added by dstack\n"; got != want {
		t.Errorf("keys:\n%s\nwant:\n%s", got, want)
	}
	all := strings.Join(h.Commands(), "\n")
	if strings.Contains(all, "s3cr3t") {
		t.Error("a secret is in the arguments of a command")
	}
	if err := w.pool.Uninstall(t.Context(), host.UninstallRequest{Endpoint: w.endpoint(h)}); err != nil {
		t.Fatal(err)
	}
	if got, want := h.File(authorized), "ssh-ed25519 OLD me@laptop\nssh-ed25519 KNOWN\n"; got != want || h.File("agent") != "" {
		t.Errorf("left: agent %q, keys\n%s", h.File("agent"), got)
	}
	if err := w.pool.Uninstall(t.Context(), host.UninstallRequest{Endpoint: w.endpoint(h)}); err != nil {
		t.Errorf("uninstalling again: %v", err)
	}
}

// The same agent is not sent again.
func TestOnboardUploadsOnce(t *testing.T) {
	w := newWorld(t)
	h := w.host()
	for range 3 {
		if _, err := w.pool.Onboard(t.Context(), host.OnboardRequest{Endpoint: w.endpoint(h)}); err != nil {
			t.Fatal(err)
		}
	}
	uploads := 0
	for _, c := range h.Commands() {
		if strings.Contains(c, "sha256sum -c") {
			uploads++
		}
	}
	if uploads != 1 {
		t.Errorf("%d uploads", uploads)
	}
}

// Everything that can be wrong is said in words, and the host is as it was.
func TestOnboardProblems(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(w *world, h *hosttest.Host, r *host.OnboardRequest)
		code    string
		words   string
	}{
		{"another system", func(_ *world, h *hosttest.Host, _ *host.OnboardRequest) { h.Program("uname", "echo FreeBSD") }, host.CodeOS, "runs FreeBSD"},
		{"another machine", func(_ *world, h *hosttest.Host, _ *host.OnboardRequest) {
			h.Program("uname", "case $1 in -s) echo Linux;; *) echo riscv64;; esac")
		}, host.CodeArch, "riscv64"},
		{"no sudo", func(_ *world, h *hosttest.Host, r *host.OnboardRequest) {
			h.Program("id", "echo 1000")
			h.Program("sudo", "exit 1")
			r.Endpoint.User = "bob"
		}, host.CodeNoSudo, "bob ALL=(ALL) NOPASSWD:ALL"},
		{"a wrong clock", func(_ *world, h *hosttest.Host, _ *host.OnboardRequest) { h.Program("date", "echo 1000000000") }, host.CodeClock, "clock"},
		{"no Docker", func(_ *world, h *hosttest.Host, _ *host.OnboardRequest) {
			_ = os.Remove(filepath.Join(h.Root, "bin", "dockerd"))
			h.Program("dockerd", "")
			_ = os.Chmod(filepath.Join(h.Root, "bin", "dockerd"), 0o600)
			h.Program("sh", `PATH=`+h.Root+`/bin:/none; exec /bin/sh "$@"`)
			for _, name := range []string{"uname", "id", "date"} {
				h.Program(name, "exec /usr/bin/env -i /usr/bin/"+name+` "$@"`)
			}
		}, host.CodeNoDocker, "Docker is not installed"},
		{"the agent refuses", func(w *world, h *hosttest.Host, _ *host.OnboardRequest) {
			write(w.t, h, "refusal", `{"code":"disk_full","message":"only 3 MiB are free"}`)
		}, "disk_full", "only 3 MiB are free"},
		{"the agent breaks", func(w *world, h *hosttest.Host, _ *host.OnboardRequest) {
			write(w.t, h, "refusal", "Segmentation fault")
		}, host.CodeInstall, "cannot be installed"},
		{"the disk is full", func(_ *world, h *hosttest.Host, _ *host.OnboardRequest) {
			h.Program("cat", "echo 'cat: write error: No space left on device' >&2; exit 1")
		}, host.CodeUpload, "No space left"},
		{"a login shell that is none", func(_ *world, h *hosttest.Host, _ *host.OnboardRequest) {
			h.Program("sh", "echo This account is not available.")
		}, host.CodeInstall, "answers oddly"},
		{"another key", func(w *world, _ *hosttest.Host, r *host.OnboardRequest) {
			r.Endpoint.Keys = []ssh.Signer{hosttest.NewUser(w.t)}
		}, host.CodeAuth, "refuses the key SHA256:"},
		{"a changed host key", func(w *world, _ *hosttest.Host, r *host.OnboardRequest) {
			r.Endpoint.HostKey = w.host().Key()
		}, host.CodeHostKey, "reinstalled"},
		{"down", func(_ *world, h *hosttest.Host, _ *host.OnboardRequest) { h.Down() }, host.CodeUnreachable, "connection refused"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			h := w.host()
			before := "ssh-ed25519 OLD me@laptop\n"
			write(t, h, authorized, before)
			req := host.OnboardRequest{Endpoint: w.endpoint(h), AuthorizedKeys: []string{"ssh-ed25519 NEW"}}
			c.prepare(w, h, &req)
			_, err := w.pool.Onboard(t.Context(), req)
			var refused *host.OnboardError
			if !errors.As(err, &refused) || refused.Code != c.code || !strings.Contains(err.Error(), c.words) {
				t.Errorf("%v, want %s: %q", err, c.code, c.words)
			}
			if h.File("agent") != "" || h.File("installed") != "" || h.File(authorized) != before {
				t.Errorf("the host has changed: agent %q, keys %q", h.File("agent"), h.File(authorized))
			}
		})
	}
}

// A host that is ours already keeps its agent when something is wrong with it.
func TestProblemOnAKnownHost(t *testing.T) {
	w := newWorld(t)
	h := w.host()
	req := host.OnboardRequest{Endpoint: w.endpoint(h)}
	if _, err := w.pool.Onboard(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	write(t, h, "refusal", `{"code":"disk_full","message":"full"}`)
	if _, err := w.pool.Onboard(t.Context(), req); err == nil || h.File("agent") == "" {
		t.Errorf("%v; the agent is gone: %v", err, h.File("agent") == "")
	}
}

// TestHostOfAnotherServer finds the agent of another server on a host: it stays, with its keys and jobs, for as
// long as that server is there or may come back.
func TestHostOfAnotherServer(t *testing.T) {
	for name, tt := range map[string]struct {
		file   string        // of the agent, "" for none
		age    time.Duration // of it
		nobody bool          // our server has no name
		ours   bool
	}{
		"another is connected":              {file: "other-1\n"},
		"another was connected a while ago": {file: "other-1\n", age: 4 * time.Minute},
		"another is gone":                   {file: "other-1\n", age: 6 * time.Minute, ours: true},
		"it is ours":                        {file: "own-1\n", ours: true},
		"the agent does not tell":           {ours: true},
		"the file is empty":                 {file: "\n", ours: true},
		"we do not tell":                    {file: "other-1\n", nobody: true, ours: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if !tt.nobody {
				w.pool.Wish.Server = "own-1"
			}
			h := w.host()
			req := host.OnboardRequest{Endpoint: w.endpoint(h), AuthorizedKeys: []string{"ssh-ed25519 NEW"}}
			keys := "ssh-ed25519 OLD # added by dstack\n"
			write(t, h, authorized, keys)
			write(t, h, "agent", "the agent that was there")
			if tt.file != "" {
				write(t, h, "var/server", tt.file)
				at := time.Now().Add(-tt.age)
				if err := os.Chtimes(filepath.Join(h.Root, "var", "server"), at, at); err != nil {
					t.Fatal(err)
				}
			}
			_, err := w.pool.Onboard(t.Context(), req)
			if tt.ours {
				if err != nil || h.File("agent") != script {
					t.Errorf("not ours: %v", err)
				}
				return
			}
			refused, ok := errors.AsType[*host.OnboardError](err)
			if !ok || refused.Code != host.CodeInUse || !strings.Contains(err.Error(), "dstack-agent uninstall") {
				t.Errorf("%v, want that the host is in use and how to end that", err)
			}
			if err := w.pool.Uninstall(t.Context(), host.UninstallRequest{Endpoint: w.endpoint(h)}); err != nil {
				t.Error(err)
			}
			if h.File("agent") != "the agent that was there" || h.File(authorized) != keys || h.File("installed") != "" {
				t.Errorf("what is the other's has changed: agent %q, keys %q", h.File("agent"), h.File(authorized))
			}
		})
	}
}

// A server that never got a host takes nothing off it at the end, whenever the other was seen there last and whatever
// the host answers.
func TestUninstallOfAnothers(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, h *hosttest.Host){
		"the other is away": func(t *testing.T, h *hosttest.Host) {
			at := time.Now().Add(-time.Hour)
			if err := os.Chtimes(filepath.Join(h.Root, "var", "server"), at, at); err != nil {
				t.Fatal(err)
			}
		},
		"the host is odd": func(_ *testing.T, h *hosttest.Host) { h.Program("date", "echo never") },
		"the host greets": func(_ *testing.T, h *hosttest.Host) { h.Program("sh", `echo Welcome; exec /bin/sh "$@"`) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.pool.Wish.Server = "own-1"
			h := w.host()
			keys := "ssh-ed25519 OLD # added by dstack\n"
			write(t, h, authorized, keys)
			write(t, h, "agent", script)
			if err := os.Chmod(filepath.Join(h.Root, "agent"), 0o755); err != nil {
				t.Fatal(err)
			}
			write(t, h, "var/server", "other-1\n")
			prepare(t, h)
			if err := w.pool.Uninstall(t.Context(), host.UninstallRequest{Endpoint: w.endpoint(h)}); err != nil {
				t.Error(err)
			}
			if h.File("agent") != script || h.File(authorized) != keys {
				t.Errorf("what is the other's has changed: agent %q, keys %q", h.File("agent"), h.File(authorized))
			}
			write(t, h, "var/server", "own-1\n")
			if err := w.pool.Uninstall(t.Context(), host.UninstallRequest{Endpoint: w.endpoint(h)}); err != nil || h.File("agent") != "" || h.File(authorized) != "" {
				t.Errorf("once it is ours: %v, agent %q, keys %q", err, h.File("agent"), h.File(authorized))
			}
		})
	}
}

// A host that another server took while ours was still at it, and fails, is not cleaned up.
func TestCleanUpOfAnothers(t *testing.T) {
	w := newWorld(t)
	w.pool.Wish.Server = "own-1"
	h := w.host()
	h.Program("cat", `mkdir -p "$ROOT/var"; echo other-1 >"$ROOT/var/server"; echo 'rm "$0" # theirs' >"$ROOT/agent"; chmod +x "$ROOT/agent"; echo "No space left on device" >&2; exit 1`)
	_, err := w.pool.Onboard(t.Context(), host.OnboardRequest{Endpoint: w.endpoint(h)})
	if refused, ok := errors.AsType[*host.OnboardError](err); !ok || refused.Code != host.CodeUpload {
		t.Errorf("%v, want that the upload failed", err)
	}
	if !strings.Contains(h.File("agent"), "theirs") {
		t.Errorf("the other's agent: %q", h.File("agent"))
	}
}

// A server that adds the host at the same moment and comes first keeps its agent.
func TestHostThatAnotherServerTook(t *testing.T) {
	w := newWorld(t)
	w.pool.Wish.Server = "own-1"
	h := w.host()
	write(t, h, "refusal", `{"code":"in_use","message":"another dstack server is adding this host"}`)
	_, err := w.pool.Onboard(t.Context(), host.OnboardRequest{Endpoint: w.endpoint(h)})
	if refused, ok := errors.AsType[*host.OnboardError](err); !ok || refused.Code != host.CodeInUse || !strings.Contains(err.Error(), "dstack-agent uninstall") {
		t.Errorf("%v, want that the host is in use and how to end that", err)
	}
	if got := h.File("installed"); !strings.Contains(got, "--server own-1") {
		t.Errorf("its agent is gone, or was not asked for this server: %q", got)
	}
}

// A host that has an agent is told apart before anything is changed on it.
func TestTakenHost(t *testing.T) {
	w := newWorld(t)
	h := w.host()
	write(t, h, "agent", "the agent that was there")
	write(t, h, "var/instance_key", "key-1\n")
	taken, asked := errors.New("it is taken"), ""
	_, err := w.pool.Onboard(t.Context(), host.OnboardRequest{Endpoint: w.endpoint(h), AuthorizedKeys: []string{"ssh-ed25519 NEW"}, Taken: func(_ context.Context, key, boot string) error {
		if asked = key; boot == "" {
			t.Error("nothing is known of its boot")
		}
		return taken
	}})
	if !errors.Is(err, taken) || asked != "key-1" {
		t.Errorf("asked about %q: %v", asked, err)
	}
	if h.File("agent") != "the agent that was there" || h.File(authorized) != "" || h.File("installed") != "" {
		t.Errorf("the host has changed: agent %q, keys %q", h.File("agent"), h.File(authorized))
	}
}

func TestWithoutDocker(t *testing.T) {
	w := newWorld(t)
	h := w.host()
	_ = os.Remove(filepath.Join(h.Root, "bin", "dockerd"))
	req := host.OnboardRequest{Endpoint: w.endpoint(h), Env: map[string]string{"DSTACK_AGENT_RUNTIME": "process"}}
	if _, err := w.pool.Onboard(t.Context(), req); err != nil {
		t.Error(err)
	}
}

func TestJumpHost(t *testing.T) {
	w := newWorld(t)
	jump, h := w.host(), w.host()
	via := w.endpoint(jump)
	done, err := w.pool.Onboard(t.Context(), host.OnboardRequest{Endpoint: w.endpoint(h), Jump: &via})
	if err != nil {
		t.Fatal(err)
	}
	if done.HostKey != h.Key() || done.JumpKey != jump.Key() {
		t.Errorf("%+v", done)
	}
	if len(jump.Commands()) != 0 {
		t.Errorf("commands ran on the jump host: %q", jump.Commands())
	}
	via.HostKey = h.Key()
	_, err = w.pool.Onboard(t.Context(), host.OnboardRequest{Endpoint: w.endpoint(h), Jump: &via})
	var refused *host.OnboardError
	if !errors.As(err, &refused) || refused.Code != host.CodeHostKey || !strings.HasPrefix(err.Error(), "jump host: ") {
		t.Errorf("a jump host with another key: %v", err)
	}
	jump.Down()
	via.HostKey = ""
	if _, err := w.pool.Onboard(t.Context(), host.OnboardRequest{Endpoint: w.endpoint(h), Jump: &via}); err == nil || !strings.HasPrefix(err.Error(), "jump host: ") {
		t.Errorf("a jump host that is down: %v", err)
	}
}

const taskID = "d27130f5-ef7b-41b5-8180-200bc215bacf"

func event(n int64) agentapi.Event {
	return agentapi.Event{Seq: n, Kind: agentapi.LogEvent, TaskID: taskID, Log: &agentapi.LogData{Source: agentapi.JobLog, Offset: n, Data: []byte("x")}}
}

// ours makes the agent of a host the one that the server has.
func ours(h *hosttest.Host) { h.Agent.Set(func(i *agentapi.HostInfo) { i.Hash = hashOf(script) }) }

func TestPool(t *testing.T) {
	for name, refuses := range map[string]bool{"by a forwarded socket": false, "by a command": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			h := w.host()
			h.NoStreamlocal = refuses
			ours(h)
			target := host.Target{ID: "h", Endpoint: w.endpoint(h)}
			w.pool.Watch(target)
			w.pool.Watch(target)
			w.until("the host is connected", func() bool { return w.sink.connected == 1 })
			for n := range int64(500) {
				h.Agent.Emit(event(n + 1))
			}
			w.until("all events are handled", func() bool { return len(w.sink.events) == 500 })
			w.until("the last is acknowledged", acked(h, 500))
			w.sink.see(func() {
				for i, e := range w.sink.events {
					if e.Seq != int64(i+1) {
						t.Fatalf("event %d at place %d", e.Seq, i)
					}
				}
				if diff := cmp.Diff([]string{h.Key()}, w.sink.pinned); diff != "" {
					t.Errorf("pinned: %s", diff)
				}
			})
			client, err := w.pool.Client("h")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := client.Host(t.Context()); err != nil {
				t.Error(err)
			}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				if c, err := l.Accept(); err == nil {
					_, _ = c.Write([]byte("hi"))
					c.Close()
				}
			}()
			c, err := w.pool.Forward(t.Context(), target, l.Addr().(*net.TCPAddr).Port)
			if err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 2)
			if _, err := c.Read(buf); err != nil || string(buf) != "hi" {
				t.Errorf("%q %v", buf, err)
			}
			c.Close()
			w.pool.Forget("h")
			if _, err := w.pool.Client("h"); !errors.Is(err, host.ErrNotConnected) {
				t.Errorf("after Forget: %v", err)
			}
		})
	}
}

// TestForward connects to ports of a host that another replica follows, and of the containers
// there: the host of the test stands for the container's SSH server as well.
func TestForward(t *testing.T) {
	w := newWorld(t)
	h := w.host()
	ours(h)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c) // until the client has gone
				c.Close()
			}()
		}
	}()
	port := l.Addr().(*net.TCPAddr).Port
	target := host.Target{ID: "h", Endpoint: w.endpoint(h)}
	if _, err := w.pool.Forward(t.Context(), target, port); !errors.Is(err, host.ErrNotConnected) {
		t.Errorf("a host whose key is not known: %v", err)
	}
	target.Endpoint.HostKey = h.Key()
	inside := host.Container{ID: "job", Host: target, Port: target.Endpoint.Port, User: "root", Key: w.user}
	for name, dial := range map[string]func(port int) (net.Conn, error){
		"host":      func(port int) (net.Conn, error) { return w.pool.Forward(t.Context(), target, port) },
		"container": func(port int) (net.Conn, error) { return w.pool.ForwardInto(t.Context(), inside, port) },
	} {
		var group sync.WaitGroup
		for range 5 {
			group.Go(func() {
				c, err := dial(port)
				if err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
				defer c.Close()
				buf := make([]byte, 2)
				if _, err := c.Write([]byte("hi")); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "hi" {
					t.Errorf("%s: %q %v", name, buf, err)
				}
			})
		}
		group.Wait()
		if _, err := dial(1); err == nil {
			t.Errorf("%s: a port where nobody listens is connected", name)
		}
	}
}

// A host that comes back is connected again, unless it is another one now.
func TestReconnect(t *testing.T) {
	w := newWorld(t)
	h := w.host()
	ours(h)
	w.pool.Watch(host.Target{ID: "h", Endpoint: w.endpoint(h)})
	w.until("the host is connected", func() bool { return w.sink.connected == 1 })
	h.Down()
	w.until("the loss is told", func() bool { return len(w.sink.lost) > 0 })
	h.Up(w.user.PublicKey(), false)
	w.until("the host is connected again", func() bool { return w.sink.connected == 2 })
	h.Down()
	h.Up(w.user.PublicKey(), true)
	w.until("the changed key is told", func() bool { return strings.Contains(w.sink.lost[len(w.sink.lost)-1], "host key") })
	w.sink.see(func() {
		if w.sink.connected != 2 || len(w.sink.pinned) != 1 {
			t.Errorf("connected %d times, pinned %d keys", w.sink.connected, len(w.sink.pinned))
		}
	})
	if _, err := w.pool.Client("h"); !errors.Is(err, host.ErrNotConnected) || !strings.Contains(err.Error(), "host key") {
		t.Errorf("%v", err)
	}
}

// A host from which nothing comes any more is lost, whatever TCP believes of the connection.
func TestSilentHost(t *testing.T) {
	w := newWorld(t)
	w.pool.Silence = 300 * time.Millisecond
	h := w.host()
	ours(h)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var cut atomic.Bool // the first connection
	pass := func(to, from net.Conn, cut *atomic.Bool) {
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			if err != nil {
				return
			}
			if cut.Load() {
				continue
			}
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
	}
	go func() {
		for cut := &cut; ; cut = new(atomic.Bool) {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", net.JoinHostPort(h.Addr(), strconv.Itoa(h.Port())))
			if err != nil {
				near.Close()
				continue
			}
			t.Cleanup(func() { near.Close(); far.Close() })
			go pass(near, far, cut)
			go pass(far, near, cut)
		}
	}()
	t.Cleanup(func() { l.Close() })
	e := w.endpoint(h)
	at := l.Addr().(*net.TCPAddr)
	e.Addr, e.Port = at.IP.String(), at.Port
	w.pool.Watch(host.Target{ID: "h", Endpoint: e})
	w.until("the stream is open", func() bool { return h.Agent.Streams() == 1 })
	cut.Store(true)
	w.until("the loss is told", func() bool { return len(w.sink.lost) > 0 })
	w.sink.see(func() {
		if want := "the host has been silent for 300ms"; w.sink.lost[0] != want {
			t.Errorf("lost: %q, want %q", w.sink.lost[0], want)
		}
	})
	w.until("the host is connected again", func() bool { return w.sink.connected > 1 })
}

// A host whose events are not read, since others take long to be stored, is not silent.
func TestSilenceOfTheServer(t *testing.T) {
	w := newWorld(t)
	w.pool.Silence = time.Second
	w.sink.busy = make(chan struct{})
	h := w.host()
	ours(h)
	w.pool.Watch(host.Target{ID: "h", Endpoint: w.endpoint(h)})
	w.until("the stream is open", func() bool { return h.Agent.Streams() == 1 })
	const events = 20
	h.Agent.Emit(event(1))
	w.sink.busy <- struct{}{}
	for n := int64(2); n <= events; n++ {
		h.Agent.Emit(event(n))
	}
	alive, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	go func() {
		for alive.Err() == nil {
			h.Agent.Emit(agentapi.Event{Kind: agentapi.HeartbeatEvent})
			<-time.After(w.pool.Silence / 10)
		}
	}()
	<-time.After(2 * w.pool.Silence)
	close(w.sink.busy)
	w.until("all are acknowledged", func() bool { seq, _ := h.Agent.Acked(); return seq == events })
	w.sink.see(func() {
		if len(w.sink.lost) > 0 || len(w.sink.events) != events {
			t.Errorf("lost: %q, %d events, want %d", w.sink.lost, len(w.sink.events), events)
		}
	})
}

// What could not be stored is not acknowledged, and asked for again.
func TestEventsThatCannotBeStored(t *testing.T) {
	w := newWorld(t)
	h := w.host()
	ours(h)
	w.sink.fail = errors.New("disk full")
	w.pool.Watch(host.Target{ID: "h", Endpoint: w.endpoint(h)})
	w.until("the host is connected", func() bool { return w.sink.connected == 1 })
	h.Agent.Emit(event(1))
	w.until("another stream is opened", func() bool { return h.Agent.Streams() > 1 })
	if !acked(h, 0)() {
		t.Error("it was acknowledged")
	}
	w.sink.see(func() { w.sink.fail = nil })
	h.Agent.Emit(event(1))
	w.until("it is stored", func() bool { return len(w.sink.events) > 0 })
}

// An agent of another build is replaced; its variables stay.
func TestUpgrade(t *testing.T) {
	w := newWorld(t)
	h := w.host()
	write(t, h, "env", "kept")
	w.pool.Watch(host.Target{ID: "h", Endpoint: w.endpoint(h)})
	w.until("the new agent is installed", func() bool { return h.File("installed") != "" })
	if got := h.File("installed"); strings.Contains(got, "--env-stdin") {
		t.Errorf("installed by %q", got)
	}
	if h.File("agent") != script {
		t.Error("not our agent")
	}
	ours(h)
	w.until("the new agent is connected", func() bool { return w.sink.connected == 1 })
}

// Jobs matter more than the agent's age: one that cannot be replaced stays in use.
func TestUpgradeThatFails(t *testing.T) {
	w := newWorld(t)
	h := w.host()
	h.Program("cat", "echo 'No space left on device' >&2; exit 1")
	w.pool.Watch(host.Target{ID: "h", Endpoint: w.endpoint(h)})
	w.until("the old agent is connected", func() bool { return w.sink.connected == 1 })
	if h.File("agent") != "" {
		t.Error("half an agent was left")
	}
}

// The same when the new one is there and refuses to be installed: the old one runs on.
func TestUpgradeThatIsRefused(t *testing.T) {
	for code, why := range map[string]string{"disk_full": "only 3 MiB are free", "no_docker": "Docker does not answer"} {
		t.Run(code, func(t *testing.T) {
			w := newWorld(t)
			h := w.host()
			write(t, h, "refusal", `{"code":"`+code+`","message":"`+why+`"}`)
			w.pool.Watch(host.Target{ID: "h", Endpoint: w.endpoint(h)})
			w.until("the old agent is connected", func() bool { return w.sink.connected == 1 })
			if h.File("installed") == "" {
				t.Error("nobody has tried to replace it")
			}
		})
	}
}
