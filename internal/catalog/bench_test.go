package catalog

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"dstack/internal/backend"
	"dstack/internal/ledger"
	"dstack/internal/offer"
)

type cloud = backend.Backend

// seller is a project's one backend, with many offers.
type seller struct {
	cloud
	offers []offer.Offer
}

func (s seller) Offers(context.Context, offer.Query) ([]offer.Offer, error) { return s.offers, nil }

func (s seller) Backend(context.Context, string, string) (backend.Backend, error) { return s, nil }

func (seller) Accounts(context.Context) ([]ledger.Account, error) {
	return []ledger.Account{{ProjectID: "p", Backend: "aws"}}, nil
}

// BenchmarkOffers is a question among 100,000 offers some seconds after the last one, when some could not
// be had lately.
func BenchmarkOffers(b *testing.B) {
	s := seller{}
	for k := range 2000 {
		for r := range 50 {
			s.offers = append(s.offers, offer.Offer{Backend: "aws", Region: fmt.Sprint("r", r), Instance: fmt.Sprint("t", k), Price: 1 + float64(k)/4 + float64(r)/100,
				Availability: offer.Available, Resources: offer.Resources{CPUs: 8, MemoryMiB: 64 << 10, DiskMiB: 100 << 10, Arch: "x86"}})
		}
	}
	for _, many := range []int{0, 1, 1000} {
		b.Run(fmt.Sprint(many, " refused"), func(b *testing.B) {
			age := time.Duration(0)
			c, err := New(Config{Clouds: s, Log: slog.New(slog.DiscardHandler), Failures: func(context.Context, time.Time) (list []ledger.Failure, err error) {
				age += 10 * time.Second
				for n := range many {
					list = append(list, ledger.Failure{ProjectID: "p", Backend: "aws", Region: "r1", Instance: fmt.Sprint("t", n), Outcome: ledger.NoCapacity, At: time.Now().Add(-age)})
				}
				return list, nil
			}})
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			b.ReportAllocs()
			for b.Loop() {
				c.failed.at = time.Time{}
				if _, err := c.Offers(b.Context(), "p", nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
