package server

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"dstack/internal/backend"
	"dstack/internal/backend/lambda"
	"dstack/internal/offer"
)

// priced is a backend that takes what things cost from the server's list prices.
type priced struct {
	backend.Backend
	prices backend.Prices
	of     string // the provider
}

func (p priced) Offers(_ context.Context, q offer.Query) ([]offer.Offer, error) {
	return p.prices.Offers(p.of, q)
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
			return priced{prices: d.Prices, of: "vultr"}, nil
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
				s.shut(t)
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

// The list prices of a provider that tells them to accounts only are collected with the credentials of
// a project's backend, from when it has one to when it gives it up.
func TestPricesAreCollectedWithTheCredentialsOfProjects(t *testing.T) {
	keys, ended := make(chan string, 10), make(chan struct{}) // of questions for types; the one that hangs
	double := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/regions") {
			fmt.Fprint(w, `{"data": [{"name": "asia-south-1"}, {"name": "europe-central-1"}, {"name": "me-west-1"}, {"name": "us-east-1"}, {"name": "us-midwest-1"}, {"name": "us-south-2"}, {"name": "us-west-1"}, {"name": "us-west-2"}]}`)
			return
		}
		key := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		keys <- key
		switch key {
		case "slow":
			<-r.Context().Done()
			close(ended)
			return
		case "bad":
			w.WriteHeader(http.StatusUnauthorized)
			fmt.Fprint(w, `{"error": {"code": "global/invalid-api-key", "message": "no"}}`)
			return
		}
		var types []string
		for _, gpu := range []string{"A10 (24 GB PCIe)", "A100 (40 GB SXM4)", "H100 (80 GB SXM5)"} {
			types = append(types, fmt.Sprintf(`%q: {"instance_type": {"name": %[1]q, "description": "1x %[1]s", "price_cents_per_hour": 1, "specs": {"vcpus": 30, "memory_gib": 200, "storage_gib": 1400, "gpus": 1}}}`, gpu))
		}
		fmt.Fprintf(w, `{"data": {%s}}`, strings.Join(types, ","))
	}))
	defer double.Close()
	kind := lambda.Type
	kind.Open = func(_ context.Context, _ any, d backend.Deps) (backend.Backend, error) {
		return priced{prices: d.Prices, of: kind.Name}, nil
	}
	s, err := New(t.Context(), Config{Dir: t.TempDir(), Token: adminToken, Backends: []backend.Type{kind}, Log: slog.New(slog.DiscardHandler), Env: func(name string) string {
		return map[string]string{"DSTACK_ENDPOINT_LAMBDA": double.URL}[name]
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.clouds.prices.Run(ctx) }()
	defer func() {
		stop()
		<-done
		s.shut(t)
	}()
	do := func(what string, body any) {
		t.Helper()
		if got := s.call(t, http.MethodPost, "/api/project/main/backends/"+what, adminToken, body); got.Status != http.StatusOK {
			t.Fatalf("%s: %d %s", what, got.Status, got.Body)
		}
	}
	with := func(key string) map[string]any {
		return map[string]any{"type": "lambda", "creds": map[string]any{"api_key": key}}
	}
	cheapest := func() float64 {
		b, err := s.clouds.Backend(t.Context(), mainID(t, s), "lambda")
		if err != nil {
			t.Fatal(err)
		}
		offers, err := b.Offers(t.Context(), offer.Query{})
		if err != nil || len(offers) == 0 {
			t.Fatalf("%d offers, %v", len(offers), err)
		}
		return offers[0].Price
	}
	do("create", with("bad"))
	if got := cheapest(); got == 0.01 { // which begins to collect
		t.Error("there are prices that nobody has collected")
	}
	asked := []string{<-keys}
	do("update", with("slow"))
	asked = append(asked, <-keys)
	do("delete", map[string]any{"backends_names": []string{"lambda"}})
	<-ended
	do("create", with("good"))
	until(t, "present prices", func() bool { return cheapest() == 0.01 })
	if asked = append(asked, <-keys); !slices.Equal(asked, []string{"bad", "slow", "good"}) {
		t.Errorf("asked with %v", asked)
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
	s.shut(t)
}
