package catalog

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/catalog/collect"
	"dstack/internal/offer"
)

// vultr is a provider in memory whose prices change with every question.
type vultr struct {
	asked atomic.Int32
	down  atomic.Bool
}

func (v *vultr) RoundTrip(r *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	switch {
	case v.down.Load():
		rec.WriteHeader(http.StatusInternalServerError)
	case strings.HasSuffix(r.URL.Path, "metal"):
		_, _ = io.WriteString(rec, `{}`)
	default:
		fmt.Fprintf(rec, `{"plans": [{"id": "vc2", "vcpu_count": 1, "ram": 1024, "disk": 25, "hourly_cost": %d, "type": "vc2", "locations": ["ewr"]},
			{"id": "vcg", "vcpu_count": 12, "ram": 122880, "hourly_cost": 100, "type": "vcg", "gpu_type": "NVIDIA_A100", "gpu_vram_gb": 80, "locations": ["ewr"]}]}`, v.asked.Add(1))
	}
	return rec.Result(), nil
}

func TestPrices(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(30 * 365 * 24 * time.Hour) // the bubble's clock begins before the embedded prices
		cloud := &vultr{}
		open := func() (p *Prices, price func() float64) {
			p, err := NewPrices(PricesConfig{Shelf: collect.Shelf{Dir: dir}, Transport: cloud, Env: func(string) string { return "" }, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- p.Run(ctx) }()
			t.Cleanup(func() {
				stop()
				<-done
			})
			return p, func() float64 {
				offers, err := p.Offers("vultr", offer.Query{})
				if err != nil || len(offers) == 0 {
					t.Fatalf("%d offers, %v", len(offers), err)
				}
				synctest.Wait()
				return offers[0].Price
			}
		}
		p, price := open()
		time.Sleep(100 * time.Hour)
		if n := cloud.asked.Load(); n != 0 {
			t.Fatalf("asked %d times though nobody wants to know", n)
		}
		embedded := price() // which has begun to collect
		if got := price(); got != 1 || embedded == 1 {
			t.Errorf("the price is %v, embedded %v, want the collected 1", got, embedded)
		}
		time.Sleep(23 * time.Hour)
		if got := price(); got != 1 && got != 2 { // a date is all that is known of their age
			t.Errorf("the price is %v the same day", got)
		}
		before := price()
		cloud.down.Store(true)
		time.Sleep(48 * time.Hour)
		if got := price(); got != before {
			t.Errorf("while they are down the price is %v, want the last good %v", got, before)
		}
		cloud.down.Store(false)
		time.Sleep(2 * time.Hour)
		if got := price(); got <= before {
			t.Errorf("the price is %v after the outage, not newer than %v", got, before)
		}
		last := price()
		if _, again := open(); again() != last {
			t.Errorf("another server does not start with what was kept")
		}
		if offers, err := p.Offers("verda", offer.Query{}); err != nil || len(offers) == 0 {
			t.Errorf("a provider without credentials has no embedded prices: %v", err)
		}
		if names, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(names) != 1 {
			t.Errorf("kept %v, %v", names, err)
		}
	})
	if _, err := os.Stat(filepath.Join(dir, "vultr.prices")); err != nil {
		t.Error(err)
	}
}

func TestPricesNarrow(t *testing.T) {
	p, err := NewPrices(PricesConfig{Shelf: collect.Shelf{Dir: t.TempDir()}, Transport: &vultr{}, Env: func(string) string { return "" }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	spot := true
	for name, tt := range map[string]struct {
		q    offer.Query
		fits func(o offer.Offer) bool
	}{
		"a region": {offer.Query{Regions: []string{"US-CENTRAL1"}}, func(o offer.Offer) bool { return o.Region == "us-central1" }},
		"spot":     {offer.Query{Spot: &spot}, func(o offer.Offer) bool { return o.Resources.Spot }},
	} {
		offers, err := p.Offers("gcp", tt.q)
		if err != nil || len(offers) == 0 {
			t.Errorf("%s: %d offers, %v", name, len(offers), err)
		}
		for i, o := range offers {
			if !tt.fits(o) || o.Backend != "gcp" || i > 0 && o.Price < offers[i-1].Price {
				t.Fatalf("%s: %+v does not belong there", name, o)
			}
		}
	}
	if offers, err := p.Offers("gcp", offer.Query{Reservation: "r"}); err != nil || len(offers) != 0 {
		t.Errorf("a reservation has %d list prices, %v", len(offers), err)
	}
}
