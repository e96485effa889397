package host_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/host"
	"dstack/internal/host/hosttest"
)

// A cloud says that a new machine is where a host is that is in use. Nothing is changed there, its key is not taken for
// the machine's, and the machine is had once that is where the cloud says.
func TestNewMachineAtAHostInUse(t *testing.T) {
	age := func(t *testing.T, h *hosttest.Host, file string, age time.Duration) {
		at := time.Now().Add(-age)
		if err := os.Chtimes(filepath.Join(h.Root, "var", file), at, at); err != nil {
			t.Fatal(err)
		}
	}
	taken := func(key, bootID string) string {
		if key == "key-1" && bootID != "" {
			return "the host is in use under another name: instance n-0"
		}
		return ""
	}
	key := func(i *agentapi.HostInfo) { i.InstanceKey, i.BootID = "key-1", "boot-1" }
	for name, tt := range map[string]struct {
		prepare func(t *testing.T, w *world, h *hosttest.Host)
		words   string // "" when it can be the machine
	}{
		"of another instance": {func(_ *testing.T, w *world, h *hosttest.Host) {
			w.sink.taken = taken
			h.Agent.Set(key)
		}, "but the host is in use under another name: instance n-0"},
		"of another instance, whose agent does not answer": {func(t *testing.T, w *world, h *hosttest.Host) {
			w.sink.taken = taken
			h.Agent.Absent()
			write(t, h, "agent", "theirs")
			write(t, h, "var/instance_key", "key-1\n")
		}, "but the host is in use under another name: instance n-0"},
		"of another server": {func(t *testing.T, _ *world, h *hosttest.Host) {
			write(t, h, "agent", "theirs")
			write(t, h, "var/server", "other-1\n")
		}, "but that host belongs to another dstack server"},
		"of another server, whose agent does not answer": {func(t *testing.T, _ *world, h *hosttest.Host) {
			h.Agent.Absent()
			write(t, h, "agent", "theirs")
			write(t, h, "var/server", "other-1\n")
		}, "but that host belongs to another dstack server"},
		"of another server that is away, with its jobs": {func(t *testing.T, _ *world, h *hosttest.Host) {
			h.Agent.Runs(agentapi.Task{ID: "t", State: agentapi.Running})
			write(t, h, "agent", "theirs")
			write(t, h, "var/server", "other-1\n")
			age(t, h, "server", time.Hour)
		}, "but jobs run there already that are not this server's"},
		"of nobody knows whom, with jobs": {func(t *testing.T, _ *world, h *hosttest.Host) {
			h.Agent.Runs(agentapi.Task{ID: "t", State: agentapi.Running})
			write(t, h, "agent", "theirs")
		}, "but jobs run there already that are not this server's"},
		"made of the image of a host": {func(t *testing.T, _ *world, h *hosttest.Host) {
			h.Agent.Set(key)
			h.Agent.Runs(agentapi.Task{ID: "t", State: agentapi.Terminated})
			write(t, h, "agent", "theirs")
			write(t, h, "var/server", "other-1\n")
			age(t, h, "server", time.Hour)
		}, ""},
		"that this server had begun with": {func(t *testing.T, _ *world, h *hosttest.Host) {
			h.Agent.Set(key)
			h.Agent.Runs(agentapi.Task{ID: "t", State: agentapi.Running})
			write(t, h, "var/server", "own-1\n")
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.pool.Wish.Server = "own-1"
			h := w.host()
			tt.prepare(t, w, h)
			before, owner := h.File("agent"), h.File("var/server")
			w.pool.Watch(host.Target{ID: "h", Endpoint: w.endpoint(h), Bare: true, New: true})
			if tt.words == "" {
				h.Agent.Set(func(i *agentapi.HostInfo) { i.Hash = hashOf(script) })
				w.until("it is connected", func() bool { return w.sink.connected == 1 && slices.Equal(w.sink.pinned, []string{h.Key()}) })
				return
			}
			w.until("it is said: "+tt.words, func() bool {
				return slices.ContainsFunc(w.sink.lost, func(s string) bool {
					return strings.Contains(s, "the backend says that the machine is at 127.0.0.1, "+tt.words)
				})
			})
			w.sink.see(func() {
				if w.sink.connected != 0 || len(w.sink.pinned) != 0 {
					t.Errorf("connected %d times, pinned %q", w.sink.connected, w.sink.pinned)
				}
			})
			if h.File("agent") != before || h.File("installed") != "" || h.File("var/server") != owner {
				t.Errorf("the host has changed: agent %q, installed by %q, of %q", h.File("agent"), h.File("installed"), h.File("var/server"))
			}
			own, target := bare(w)
			target.New = true
			own.OnInstall(func() { ours(own) })
			w.pool.Forget("h")
			w.pool.Watch(target)
			w.until("the machine is connected", func() bool { return w.sink.connected == 1 && slices.Equal(w.sink.pinned, []string{own.Key()}) })
			if got := own.File("installed"); !strings.Contains(got, "--server own-1") {
				t.Errorf("its agent is nobody's: installed by %q", got)
			}
		})
	}
}

// Of two new machines that a cloud says are in one place, the first has it. The other waits for as long as the first
// answers there.
func TestNewMachinesInOnePlace(t *testing.T) {
	w := newWorld(t)
	h, target := bare(w)
	target.New = true
	h.Program("id", "echo 1000")
	h.Program("sudo", "exit 1") // yet
	w.pool.Watch(target)
	second := target
	second.ID = "h2"
	w.pool.Watch(second)
	const words = "another instance is there"
	w.until("the second waits", func() bool {
		return slices.ContainsFunc(w.sink.lost, func(s string) bool { return strings.Contains(s, words) })
	})
	h.OnInstall(func() { ours(h) })
	h.Program("sudo", `[ "$1" = -n ] && shift; exec "$@"`)
	w.until("the first is connected", func() bool { return w.sink.connected == 1 })
	if _, err := w.pool.Client("h"); err != nil {
		t.Error(err)
	}
	seen := 0
	w.sink.see(func() { seen = len(w.sink.lost) })
	w.until("the second still waits", func() bool {
		return len(w.sink.lost) > seen && strings.Contains(w.sink.lost[len(w.sink.lost)-1], words)
	})
	w.pool.Forget("h") // given back, and the address is another's now
	w.until("the second is connected", func() bool { return w.sink.connected == 2 })
}

// Where a host was that does not answer any more, a new machine may be: its host is another.
func TestNewMachineWhereOneWas(t *testing.T) {
	w := newWorld(t)
	h, target := bare(w)
	ours(h)
	old := target
	old.ID = "old"
	old.Endpoint.HostKey = w.host().Key()
	w.pool.Watch(old)
	target.New = true
	w.pool.Watch(target)
	w.until("the new machine is connected", func() bool { return w.sink.connected == 1 })
}

// A machine that may have moved is the one that was met: its host has the same key, and the agent too. Another instance's
// that was made of the same disk is not.
func TestMovedMachine(t *testing.T) {
	for name, tt := range map[string]struct {
		prepare func(w *world, h *hosttest.Host, target *host.Target)
		words   string // "" when it is
	}{
		"it is":        {func(*world, *hosttest.Host, *host.Target) {}, ""},
		"another host": {func(w *world, _ *hosttest.Host, target *host.Target) { target.Endpoint.HostKey = w.host().Key() }, "the host key of"},
		"another agent": {func(_ *world, h *hosttest.Host, _ *host.Target) {
			h.Agent.Set(func(i *agentapi.HostInfo) { i.InstanceKey = "key-2" })
		}, "but the agent there is another one"},
		"another instance": {func(w *world, _ *hosttest.Host, _ *host.Target) {
			w.sink.taken = func(string, string) string { return "the host is in use under another name" }
		}, "but the host is in use under another name"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			h := w.host()
			ours(h)
			h.Agent.Set(func(i *agentapi.HostInfo) { i.InstanceKey = "key-1" })
			target := host.Target{ID: "h", Endpoint: w.endpoint(h), Bare: true, Key: "key-1", Moved: true}
			target.Endpoint.HostKey = h.Key()
			tt.prepare(w, h, &target)
			w.pool.Watch(target)
			if tt.words == "" {
				w.until("it is connected", func() bool { return w.sink.connected == 1 })
				return
			}
			w.until("it is said: "+tt.words, func() bool {
				return slices.ContainsFunc(w.sink.lost, func(s string) bool { return strings.Contains(s, tt.words) })
			})
			w.sink.see(func() {
				if w.sink.connected != 0 {
					t.Error("connected")
				}
			})
		})
	}
}
