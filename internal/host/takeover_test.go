package host_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"dstack/internal/host"
	"dstack/internal/host/hosttest"
)

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
