package host_test

import (
	"errors"
	"testing"

	"dstack/internal/host"
)

// TestVisit calls a host that another replica follows: only one whose key is known, or known to be lost.
func TestVisit(t *testing.T) {
	for name, tt := range map[string]struct {
		key       string // "" for none, "right" for the host's
		forgotten bool
		reached   bool
	}{
		"the key is known":     {key: "right", reached: true},
		"another key is known": {key: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB"},
		"never met":            {},
		"the key is lost":      {forgotten: true, reached: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			h := w.host()
			ours(h)
			target := host.Target{ID: "i", Endpoint: w.endpoint(h), Bare: true, Forgotten: tt.forgotten}
			if target.Endpoint.HostKey = tt.key; tt.key == "right" {
				target.Endpoint.HostKey = h.Key()
			}
			client, err := w.pool.Visit(t.Context(), target)
			if (err == nil) != tt.reached {
				t.Fatalf("reached: %v (%v), want %v", err == nil, err, tt.reached)
			}
			if !tt.reached {
				if tt.key == "" && !errors.Is(err, host.ErrNotConnected) {
					t.Errorf("%v, want ErrNotConnected", err)
				}
				return
			}
			if _, err := client.Host(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}
