package catalog

import (
	"context"
	"time"

	"dstack/internal/ledger"
	"dstack/internal/offer"
)

// quoted is how young an answer must be to tell a price of now: many requests share one.
const quoted = 5 * time.Second

// Quote tells what an offer costs now, for somebody who is about to ask for it. It waits as
// [Catalog.Purchasable] does, but for the offer's backend alone, and asks again sooner.
func (c *Catalog) Quote(ctx context.Context, projectID string, what offer.Key) (ledger.Quote, error) {
	offers := subject{Account: ledger.Account{ProjectID: projectID, Backend: what.Backend}}
	w := buying()
	w.young = quoted
	if err := c.await(ctx, []subject{offers}, w); err != nil {
		return ledger.Quote{}, err
	}
	lately := c.lately(ctx, projectID)
	c.mu.Lock()
	defer c.mu.Unlock()
	k, now := c.known[offers], time.Now()
	if k == nil {
		return ledger.Quote{}, nil
	}
	var q ledger.Quote
	if k.awaited(now) {
		q.Awaited = k.asked.Add(deadline)
	}
	if !k.valid(now) {
		return q, nil
	}
	for _, o := range k.offers {
		if o.Key() != what {
			continue
		}
		if price, _ := lately.Of(what, o.Price); !q.Known || price < q.Price {
			q.Price, q.Known = price, true
		}
	}
	return q, nil
}
