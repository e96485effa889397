package catalog

import (
	"archive/zip"
	"bytes"
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

// hanging answers for vultr, for aws with a byte every 35 s, and for no other provider
// until the question is given up.
type hanging struct {
	vultr
	silent atomic.Int32 // questions that wait
}

func (h *hanging) RoundTrip(r *http.Request) (*http.Response, error) {
	switch {
	case strings.Contains(r.URL.Host, "vultr"):
		return h.vultr.RoundTrip(r)
	case strings.Contains(r.URL.Host, "aws"):
		return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(drip{r.Context()})}, nil
	}
	h.silent.Add(1)
	defer h.silent.Add(-1)
	<-r.Context().Done()
	return nil, context.Cause(r.Context())
}

// drip is a body that comes slowly.
type drip struct{ ctx context.Context }

func (d drip) Read(p []byte) (int, error) {
	select {
	case <-time.After(35 * time.Second):
		return copy(p, "x"), nil
	case <-d.ctx.Done():
		return 0, context.Cause(d.ctx)
	}
}

// Providers that hang, and one whose list takes hours, delay nobody.
func TestPricesOfOthersAreCollectedWhileSomeHang(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(30 * 365 * 24 * time.Hour)
		cloud := &hanging{}
		var said bytes.Buffer
		p, err := NewPrices(PricesConfig{Shelf: collect.Shelf{Dir: dir}, Transport: cloud, Env: func(string) string { return "" }, Log: slog.New(slog.NewTextHandler(&said, nil))})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		price := func(provider string) float64 {
			offers, err := p.Offers(provider, offer.Query{})
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if len(offers) == 0 {
				return 0
			}
			return offers[0].Price
		}
		for _, provider := range []string{"aws", "oci", "azure", "runpod"} {
			price(provider)
		}
		if n := cloud.silent.Load(); n != 1+8+1 { // Azure is asked for eight regions at once
			t.Errorf("%d questions are under way", n)
		}
		price("vultr")
		if got := price("vultr"); got != 1 {
			t.Errorf("while others hang the price of vultr is %v, not the collected 1", got)
		}
		price("cloudrift")
		price("vastai") // the fifth of the usual ones that are asked waits until one of them ends
		synctest.Wait()
		if n := cloud.silent.Load(); n != 1+8+1+1 {
			t.Errorf("%d questions are under way", n)
		}
		time.Sleep(40 * time.Second) // longer than an answer may take
		synctest.Wait()
		if n := cloud.silent.Load(); n != 1 {
			t.Errorf("%d questions are under way, want that of vastai", n)
		}
		time.Sleep(10 * time.Minute)
		stop()
		<-done
		if n := cloud.silent.Load(); n != 0 {
			t.Errorf("%d questions are under way after the end", n)
		}
		for _, want := range []string{`msg="still collecting list prices" prices_of=aws since=10m0s received_bytes=17`, `msg="list prices collected" prices_of=vultr rows=2`, "prices_of=oci err="} {
			if !strings.Contains(said.String(), want) {
				t.Errorf("the log lacks %q", want)
			}
		}
	})
}

// published answers with a catalog of Lambda's of a day long ago.
type published struct{ archive []byte }

func (p published) RoundTrip(r *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	if strings.HasSuffix(r.URL.Path, "/version") {
		_, _ = io.WriteString(rec, "20200101-1")
	} else {
		_, _ = rec.Write(p.archive)
	}
	return rec.Result(), nil
}

// Collected prices that are older than the embedded ones are kept, not used, and that is said.
func TestPricesThatAreOlder(t *testing.T) {
	var archive bytes.Buffer
	zw := zip.NewWriter(&archive)
	f, err := zw.Create("lambdalabs.csv")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(f, "instance_name,location,price,cpu,memory,gpu_count,gpu_name,gpu_memory,spot")
	for _, region := range []string{"asia-south-1", "europe-central-1", "me-west-1", "us-east-1", "us-midwest-1", "us-south-2", "us-west-1", "us-west-2"} {
		fmt.Fprintf(f, "a,%[1]s,1,4,16,1,A10,24,False\nb,%[1]s,1,4,16,1,A100,40,False\nc,%[1]s,1,4,16,1,H100,80,False\n", region)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(30 * 365 * 24 * time.Hour)
		var said bytes.Buffer
		p, err := NewPrices(PricesConfig{Shelf: collect.Shelf{Dir: dir}, Transport: published{archive.Bytes()}, Log: slog.New(slog.NewTextHandler(&said, nil)), Env: func(name string) string {
			return map[string]string{collect.CatalogsVariable: "http://catalogs.example"}[name]
		}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		before, err := p.Offers("lambda", offer.Query{})
		if err != nil || len(before) < 4 {
			t.Fatalf("%d offers, %v", len(before), err)
		}
		synctest.Wait()
		if after, err := p.Offers("lambda", offer.Query{}); err != nil || len(after) != len(before) {
			t.Errorf("%d offers, %v, want the %d embedded ones", len(after), err, len(before))
		}
		stop()
		<-done
		if want := `msg="the collected list prices are older than those that are known, which stay in use" prices_of=lambda of=2020-01-01 known_of=2026`; !strings.Contains(said.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, said.String())
		}
	})
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
}
