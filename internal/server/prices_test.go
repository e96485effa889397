package server

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"dstack/internal/backend"
	"dstack/internal/offer"
)

// priced is a backend that takes what things cost from the server's list prices.
type priced struct {
	backend.Backend
	prices backend.Prices
}

func (p priced) Offers(_ context.Context, q offer.Query) ([]offer.Offer, error) {
	return p.prices.Offers("vultr", q)
}

// A backend that needs list prices has the embedded ones, soon present ones, and after a
// restart those at once.
func TestBackendsHavePresentPrices(t *testing.T) {
	double := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "metal") {
			fmt.Fprint(w, `{}`)
			return
		}
		fmt.Fprint(w, `{"plans": [{"id": "new", "vcpu_count": 1, "ram": 1024, "disk": 25, "hourly_cost": 0.5, "type": "vc2", "locations": ["ewr"]},
			{"id": "vcg", "vcpu_count": 12, "ram": 122880, "hourly_cost": 2, "type": "vcg", "gpu_type": "NVIDIA_A100", "gpu_vram_gb": 80, "locations": ["ewr"]}]}`)
	}))
	defer double.Close()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.yml"), []byte("projects:\n  - name: main\n    backends:\n      - type: vultr\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	start := func() (cheapest func() string, stop func()) {
		kind := backend.Define("vultr", "", func(_ context.Context, _ struct{}, d backend.Deps) (backend.Backend, error) {
			return priced{prices: d.Prices}, nil
		})
		s, err := New(context.Background(), Config{Dir: dir, Token: adminToken, Backends: []backend.Type{kind}, Log: slog.New(slog.DiscardHandler), Env: func(name string) string {
			return map[string]string{"DSTACK_ENDPOINT_VULTR": double.URL}[name]
		}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.clouds.prices.Run(ctx) }()
		account := s.clouds.accounts[0]
		return func() string {
				b, err := s.clouds.Backend(t.Context(), account.ProjectID, account.Backend)
				if err != nil {
					t.Fatal(err)
				}
				offers, err := b.Offers(t.Context(), offer.Query{})
				if err != nil || len(offers) == 0 {
					t.Fatalf("%d offers, %v", len(offers), err)
				}
				return offers[0].Instance
			}, func() {
				cancel()
				<-done
				s.pool.Close()
				s.catalog.Close()
				if err := s.db.Close(); err != nil {
					t.Error(err)
				}
			}
	}
	cheapest, stop := start()
	if got := cheapest(); got == "new" {
		t.Error("there are prices that nobody has collected")
	}
	until(t, "present prices", func() bool { return cheapest() == "new" })
	stop()
	cheapest, stop = start()
	defer stop()
	if got := cheapest(); got != "new" {
		t.Errorf("after a restart the cheapest is %s, not what was collected", got)
	}
}

// told is a backend that tells that it is asked.
type told struct {
	backend.Backend
	asked chan struct{}
}

func (b told) Offers(context.Context, offer.Query) ([]offer.Offer, error) {
	b.asked <- struct{}{}
	return nil, nil
}

// The first question of a user need not wait for clouds: they are asked when the server starts.
func TestBackendsAreAskedBeforeAnybodyWantsToKnow(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.yml"), []byte("projects:\n  - name: main\n    backends:\n      - type: lambda\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{}, 10)
	kind := backend.Define("lambda", "", func(context.Context, struct{}, backend.Deps) (backend.Backend, error) { return told{asked: asked}, nil })
	s, err := New(t.Context(), Config{Dir: dir, Token: adminToken, Backends: []backend.Type{kind}, Log: slog.New(slog.DiscardHandler), Env: func(string) string { return "" }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.followBackends(ctx) }()
	<-asked
	stop()
	<-done
	s.pool.Close()
	s.catalog.Close()
	if err := s.db.Close(); err != nil {
		t.Error(err)
	}
}
