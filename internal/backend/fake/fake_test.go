package fake_test

import (
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"testing"

	"dstack/internal/backend"
	"dstack/internal/backend/backendtest"
	"dstack/internal/backend/fake"
	"dstack/internal/catalog"
	"dstack/internal/catalog/collect"
	"dstack/internal/offer"
)

func TestConformance(t *testing.T) {
	backendtest.Run(t, func(*testing.T, http.RoundTripper) backendtest.Subject {
		return subject(fake.New(fake.Config{ID: "account", Offers: fake.SomeOffers()}))
	})
}

func TestConformanceOfRanked(t *testing.T) {
	backendtest.Run(t, func(*testing.T, http.RoundTripper) backendtest.Subject {
		c := fake.New(fake.Config{ID: "account", Offers: fake.SomeOffers()})
		s := subject(c)
		s.Backend = fake.Ranked{Cloud: c}
		return s
	})
}

// A backend can be built on the server's list prices.
func TestConformanceAtListPrices(t *testing.T) {
	prices, err := catalog.NewPrices(catalog.PricesConfig{
		Shelf: collect.Shelf{Dir: t.TempDir()}, Transport: nobody{t}, Env: func(string) string { return "" }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	open := func() *fake.Cloud { return fake.New(fake.Config{ID: "account", Name: "aws", Prices: prices}) }
	backendtest.Run(t, func(*testing.T, http.RoundTripper) backendtest.Subject { return subject(open()) })

	offers, err := open().Offers(t.Context(), offer.Query{Regions: []string{"us-east-1"}})
	i := slices.IndexFunc(offers, func(o offer.Offer) bool { return o.Instance == "p5.48xlarge" })
	if err != nil || i < 0 || offers[i].Price != 55.04 || len(offers[i].Resources.GPUs) != 8 || offers[i].Availability != offer.Available {
		t.Errorf("of %d offers none is p5.48xlarge at its list price: %v", len(offers), err)
	}
}

func subject(c *fake.Cloud) backendtest.Subject {
	return backendtest.Subject{Backend: c, Foreign: func(*testing.T) backend.Ref {
		return backend.Ref{Region: "north", ID: c.Plant("north", 1, map[string]string{"team": "others"})}
	}, Reserve: func(_ *testing.T, o offer.Offer, n int) string {
		c.Reserve("r-1", offer.Reserved{Region: o.Region, Zone: "z1", Instance: o.Instance, GPUs: o.Resources.GPUs, Left: n})
		return "r-1"
	}}
}

// nobody is a network on which nothing may be asked.
type nobody struct{ t *testing.T }

func (n nobody) RoundTrip(r *http.Request) (*http.Response, error) {
	n.t.Errorf("asked for %s", r.URL)
	return nil, errors.New("nobody is there")
}
