package catalog

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/catalog/collect"
	"dstack/internal/catalog/pricelist"
	"dstack/internal/offer"
)

// Spot instances are not offered at prices of hours ago, whatever else is.
func TestOldSpotPrices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(30 * 365 * 24 * time.Hour) // the bubble's clock begins before the embedded prices
		p, err := NewPrices(PricesConfig{Shelf: collect.Shelf{Dir: t.TempDir()}, Transport: &vultr{}, Env: func(string) string { return "" }, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		count := func(spot bool) int {
			t.Helper()
			offers, err := p.Offers("aws", offer.Query{Spot: &spot})
			if err != nil {
				t.Fatal(err)
			}
			return len(offers)
		}
		before := count(true)
		var b pricelist.Builder
		row := pricelist.Row{Backend: "aws", Instance: "x1.tiny", Region: "us-east-1", CPUs: 1, MemoryMiB: 1024, Arch: "x86", Spot: true, Price: 0.1, AsOf: time.Now().UTC().Format("2006-01-02")}
		if err := b.Add(row); err != nil {
			t.Fatal(err)
		}
		p.kept["aws-spot"], p.heard["aws-spot"] = b.List(), time.Now()
		p.combine()
		onDemand := count(false)
		time.Sleep(spotValid)
		if n := count(true); n != 1 {
			t.Errorf("%d spot instances are offered, want the one whose price is known", n)
		}
		time.Sleep(time.Second)
		if n := count(true); n != before {
			t.Errorf("%d spot instances are offered at old prices", n-before)
		}
		if n := count(false); n != onDemand || n == 0 {
			t.Errorf("%d instances on demand are offered, want %d as before", n, onDemand)
		}
	})
}
