package host_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
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
	busy      chan struct{}                   // Handle waits twice for it, nil for not
	taken     func(key, bootID string) string // optional
}

func (s *sink) Pinned(_, key string) {
	s.mu.Lock()
	s.pinned = append(s.pinned, key)
	s.mu.Unlock()
}

func (s *sink) Taken(_ context.Context, _, key, bootID string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken == nil {
		return "", nil
	}
	return s.taken(key, bootID), nil
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
