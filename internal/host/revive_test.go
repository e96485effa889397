package host_test

import (
	"strings"
	"testing"

	"dstack/internal/host"
	"dstack/internal/host/hosttest"
)

// bare is a machine as a cloud gives it: SSH answers, there is no agent.
func bare(w *world) (*hosttest.Host, host.Target) {
	h := w.host()
	h.Agent.Absent()
	h.Program("uname", `case $1 in -s) echo Linux;; -m) echo x86_64;; esac`)
	return h, host.Target{ID: "h", Endpoint: w.endpoint(h), Bare: true}
}

// The agent is put onto a machine that has none, whatever its architecture.
func TestBareMachine(t *testing.T) {
	for machine, mark := range map[string]string{"x86_64": "#!/bin/sh\ncase", "aarch64": "# arm"} {
		t.Run(machine, func(t *testing.T) {
			w := newWorld(t)
			h, target := bare(w)
			h.Program("uname", `case $1 in -s) echo Linux;; -m) echo `+machine+`;; esac`)
			h.OnInstall(func() { ours(h) })
			w.pool.Watch(target)
			w.until("the agent is connected", func() bool { return w.sink.connected == 1 })
			if !strings.Contains(h.File("agent"), mark) {
				t.Errorf("not the agent for the architecture: %q", h.File("agent"))
			}
			if got, want := h.File("installed"), "install --home "+h.Root+"/var --user root\n"; got != want {
				t.Errorf("installed by %q, want %q", got, want)
			}
		})
	}
}

// A machine that is not ready says why, and is tried again until it is.
func TestBareMachineThatIsNotReady(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(w *world, h *hosttest.Host)
		words   string
		mend    func(h *hosttest.Host)
	}{
		{"Docker comes later", func(w *world, h *hosttest.Host) {
			write(w.t, h, "refusal", `{"code":"no_docker","message":"Docker is not installed on the host. Install it and apply again"}`)
		}, "Docker does not answer on 127.0.0.1 yet", func(h *hosttest.Host) { h.Remove("refusal") }},
		{"cloud-init runs", func(w *world, h *hosttest.Host) { write(w.t, h, "cloud-init/status.json", "{}") },
			"cloud-init is still setting 127.0.0.1 up", func(h *hosttest.Host) { h.Remove("cloud-init") }},
		{"sudo comes later", func(_ *world, h *hosttest.Host) {
			h.Program("id", "echo 1000")
			h.Program("sudo", "exit 1")
		}, "may not use sudo", func(h *hosttest.Host) { h.Program("sudo", `[ "$1" = -n ] && shift; exec "$@"`) }},
		{"the disk is full", func(_ *world, h *hosttest.Host) {
			h.Program("cat", "echo 'cat: write error: No space left on device' >&2; exit 1")
		}, "No space left", func(h *hosttest.Host) { h.Remove("bin/cat") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			h, target := bare(w)
			h.OnInstall(func() { ours(h) })
			c.prepare(w, h)
			w.pool.Watch(target)
			w.until("it is said: "+c.words, func() bool {
				return len(w.sink.lost) > 0 && strings.Contains(w.sink.lost[len(w.sink.lost)-1], c.words)
			})
			c.mend(h)
			w.until("the agent is connected", func() bool { return w.sink.connected == 1 })
		})
	}
}

// Nothing is put onto a host of the user that has lost its agent: its variables are not known
// here.
func TestLostAgentOfAUsersHost(t *testing.T) {
	w := newWorld(t)
	h, target := bare(w)
	target.Bare = false
	w.pool.Watch(target)
	w.until("two connections have failed", func() bool { return len(w.sink.lost) > 1 })
	if h.File("agent") != "" {
		t.Error("an agent was pushed")
	}
}
