package local

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"dstack/internal/agentbin"
	"dstack/internal/backend"
	"dstack/internal/backend/backendtest"
	"dstack/internal/offer"
)

// TestConformance runs the suite with real agents.
func TestConformance(t *testing.T) {
	agents := agentbin.New()
	backendtest.Run(t, func(t *testing.T, _ http.RoundTripper) backendtest.Subject {
		// A socket's path is bounded, and the names of tests are long.
		dir, err := os.MkdirTemp("", "local")
		if err != nil {
			t.Fatal(err)
		}
		b, err := Type(agents).Open(t.Context(), &Config{}, backend.Deps{Dir: dir, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { endAll(t, b, dir) })
		return backendtest.Subject{
			Backend: b, Patience: 30 * time.Second,
			Foreign: func(t *testing.T) backend.Ref {
				offers, err := b.Offers(t.Context(), offer.Query{})
				if err != nil {
					t.Fatal(err)
				}
				inst, err := b.Create(t.Context(), backend.CreateRequest{Token: uuid.NewString(), Name: "other", Offer: offers[0]})
				if err != nil {
					t.Fatal(err)
				}
				return inst.Ref
			},
		}
	})
}

// endAll ends the agents of a folder and removes it.
func endAll(t *testing.T, b backend.Backend, dir string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		m, err := readMeta(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // not an agent's folder
		}
		if err := b.Terminate(ctx, backend.Ref{Region: Name, ID: m.Token}); err != nil {
			t.Errorf("end agent %s: %v", m.Token, err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}
