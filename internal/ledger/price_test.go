package ledger_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"dstack/internal/backend"
	"dstack/internal/backend/fake"
	"dstack/internal/ledger"
	"dstack/internal/offer"
)

// A request that is repeated is not repeated at a price above the limit.
func TestPriceIsComparedAgain(t *testing.T) {
	limited := &backend.RateLimitedError{After: 30 * time.Second}
	for name, tt := range map[string]struct {
		limit float64
		quote func(sinceIntent time.Duration) ledger.Quote
		asked int // calls of Create
		state ledger.State
		said  string
	}{
		"the same price":    {2.5, func(time.Duration) ledger.Quote { return ledger.Quote{Price: 2.5, Known: true} }, 2, ledger.Created, ""},
		"dearer, but cheap": {9, func(time.Duration) ledger.Quote { return ledger.Quote{Price: 9, Known: true} }, 2, ledger.Created, ""},
		"too dear": {2.5, func(d time.Duration) ledger.Quote {
			if d > time.Second {
				return ledger.Quote{Price: 2.75, Known: true}
			}
			return ledger.Quote{Price: 2.5, Known: true}
		}, 1, ledger.Gone, "it costs $2.75 an hour now, more than the max_price of $2.5"},
		"too dear from the beginning": {2, func(time.Duration) ledger.Quote { return ledger.Quote{Price: 2.5, Known: true} }, 0, ledger.Gone, "more than the max_price of $2"},
		"not known any more": {2.5, func(d time.Duration) ledger.Quote {
			return ledger.Quote{Price: 2.5, Known: d < time.Second}
		}, 1, ledger.Gone, "its price is not known any more, and there is a max_price of $2.5"},
		"not known for a while": {2.5, func(d time.Duration) ledger.Quote {
			if d < time.Second || d > 40*time.Second {
				return ledger.Quote{Price: 2.5, Known: true}
			}
			return ledger.Quote{Awaited: time.Now().Add(time.Minute)}
		}, 2, ledger.Created, ""},
		"no limit": {0, func(time.Duration) ledger.Quote { return ledger.Quote{Price: 99, Known: true} }, 2, ledger.Created, ""},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, plain, func(w *world) {
				w.cloud.Inject(fake.Fault{Op: "Create", Nth: 1, Before: limited})
				begin := time.Now()
				w.quote(func(context.Context, string, offer.Key) (ledger.Quote, error) {
					return tt.quote(time.Since(begin)), nil
				})
				var limit *float64
				if tt.limit > 0 {
					limit = &tt.limit
				}
				id := w.intendFor(limit)
				time.Sleep(time.Minute)
				live := 0
				if tt.state == ledger.Created {
					live = 1
				}
				r := w.want(id, tt.state, live)
				if n := w.cloud.Calls("Create"); n != tt.asked {
					t.Errorf("%d calls of Create, want %d", n, tt.asked)
				}
				if tt.said == "" {
					return
				}
				if r.Doc.Outcome != ledger.TooDear || !r.Refused() || !strings.Contains(r.Message(), tt.said) {
					t.Errorf("outcome %s, %q, want %s, %q", r.Doc.Outcome, r.Message(), ledger.TooDear, tt.said)
				}
				if list, err := ledger.Failures(context.Background(), w.db.Read(), time.Time{}); err != nil || len(list) != 0 {
					t.Errorf("failures %v, %v: an offer is not worse for being dear", list, err)
				}
			})
		})
	}
}
