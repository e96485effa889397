package catalog

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/ledger"
	"dstack/internal/offer"
)

func TestDearerPrices(t *testing.T) {
	now := time.Date(2026, 11, 25, 18, 0, 0, 0, time.UTC)
	what := offer.Key{Backend: "aws", Region: "r", Instance: "a"}
	told := func(offered, really float64, ago time.Duration) ledger.Dearer {
		return ledger.Dearer{Key: what, Offered: offered, Price: really, At: now.Add(-ago)}
	}
	long := halving + time.Minute
	for name, tt := range map[string]struct {
		list          []ledger.Dearer
		listed        float64
		want, penalty float64
	}{
		"nothing":                        {nil, 2.5, 2.5, 0},
		"just now":                       {[]ledger.Dearer{told(2.5, 9, 0)}, 2.5, 9, 0},
		"while it lists the same":        {[]ledger.Dearer{told(2.5, 9, remembered)}, 2.5, 9, 0},
		"forgotten":                      {[]ledger.Dearer{told(2.5, 9, remembered+time.Second)}, 2.5, 2.5, 0},
		"it lists something else soon":   {[]ledger.Dearer{told(2.5, 9, halving)}, 2, 9, 0},
		"and later":                      {[]ledger.Dearer{told(2.5, 9, 2*halving)}, 2, 2, 0.25},
		"it lists more":                  {[]ledger.Dearer{told(2.5, 9, 0)}, 10, 10, 0},
		"bought knowing better":          {[]ledger.Dearer{told(2.5, 9, 2*long), told(9, 12, long)}, 2.5, 12, 0},
		"several at once":                {[]ledger.Dearer{told(2.5, 9, long), told(2.5, 8, long)}, 2.5, 9, 0},
		"of a price that was meanwhile":  {[]ledger.Dearer{told(2, 9, 2*halving), told(2, 9, 2*halving)}, 2.5, 2.5, 0.5},
		"of that price, and of this one": {[]ledger.Dearer{told(2, 9, 2*halving), told(2.5, 7, 2*halving)}, 2.5, 7, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got, penalty := dearOnes(now, tt.list)[what].price(tt.listed)
			if got != tt.want || penalty != tt.penalty {
				t.Errorf("listed for $%v: $%v with the penalty %v, want $%v with %v", tt.listed, got, penalty, tt.want, tt.penalty)
			}
		})
	}
}

// What a machine really cost counts for its project alone: in lists, and for who is about to buy.
func TestOffersThatAreDearer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []ledger.Dearer
		c, _, _ := open(t, func(_ context.Context, name string) ([]offer.Offer, error) {
			o := one(name)
			o[0].Price = 2.5
			return o, nil
		})
		what := one("a")[0].Key()
		c.Dearers = func(_ context.Context, projectID string, since time.Time) ([]ledger.Dearer, error) {
			if age := time.Since(since); age != remembered {
				t.Errorf("asked for what cost more in the last %v", age)
			}
			if projectID != "p" {
				return nil, nil
			}
			return told, nil
		}
		check := func(when string, project string, want float64) {
			t.Helper()
			l, err := c.Offers(t.Context(), project, nil)
			if err != nil {
				t.Fatal(err)
			}
			for n, o := range l.Offers {
				other := want
				if n > 0 {
					other = 2.5
				}
				if price, penalty := l.Lately.Of(o.Key(), o.Price); price != other || penalty != 0 {
					t.Errorf("%s: %s costs %v with the penalty %v, want %v without", when, o.Instance, price, penalty, other)
				}
			}
			if q, err := c.Quote(t.Context(), project, what); err != nil || q.Price != want || !q.Known {
				t.Errorf("%s: quoted %+v, %v, want %v", when, q, err, want)
			}
		}
		check("before", "p", 2.5)
		told = []ledger.Dearer{{Key: what, Offered: 2.5, Price: 9, At: time.Now()}}
		time.Sleep(reread)
		check("moments after", "p", 9)
		check("moments after, elsewhere", "other", 2.5)
		told = nil
		time.Sleep(remembered)
		check("when it is forgotten", "p", 2.5)
	})
}
