package ledger

import (
	"context"
	"fmt"
	"time"

	"dstack/internal/offer"
)

// askPrice spaces the questions for a price that is awaited.
const askPrice = 2 * time.Second

// Quote is what something costs now, as far as its backend has said.
type Quote struct {
	Price float64 // US dollars per hour
	Known bool    // a valid answer of the backend has it
	// Awaited is until when an answer that is missing may come; zero when none is awaited.
	Awaited time.Time
}

// QuoteFunc tells what an offer of one of a project's backends costs now.
type QuoteFunc func(ctx context.Context, projectID string, what offer.Key) (Quote, error)

// affordable looks at the price once more before anything is asked of the provider: between the
// decision and the request may be waits for rate limits, for a placement group, for a server that
// was down. It returns why not, or when to look again; nothing of both when the request may go.
func (l *Ledger) affordable(ctx context.Context, r Record) (why string, again time.Time, err error) {
	if r.Doc.MaxPrice == nil || r.Doc.Create == nil || l.Quote == nil {
		return "", time.Time{}, nil
	}
	o := r.Doc.Create.Offer
	q, err := l.Quote(ctx, r.ProjectID, r.key())
	if err != nil {
		return "", time.Time{}, fmt.Errorf("look up the price of %s at %s: %w", o.Instance, r.Backend, err)
	}
	why, again = q.within(time.Now(), *r.Doc.MaxPrice)
	return why, again, nil
}

// within says why one may not buy with a limit, or when to look again.
func (q Quote) within(now time.Time, limit float64) (why string, again time.Time) {
	switch {
	case q.Known && q.Price <= limit:
		return "", time.Time{}
	case q.Known:
		return fmt.Sprintf("it costs $%g an hour now, more than the max_price of $%g", q.Price, limit), time.Time{}
	case now.Before(q.Awaited):
		return "", earlier(q.Awaited, now.Add(askPrice))
	}
	return fmt.Sprintf("its price is not known any more, and there is a max_price of $%g", limit), time.Time{}
}

// tooDear ends an intent that may not cost what it costs now.
func (r *Record) tooDear(now time.Time, why string) {
	r.Doc.Message = why
	r.gone(now, TooDear)
}
