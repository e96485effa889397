package ledger

import (
	"context"
	"database/sql"
	"slices"
	"time"

	"dstack/internal/backend"
	"dstack/internal/store"
)

// debtAfter is how old an intent must be before it counts as a debt while it is unknown or
// being deleted: normal ones are done by then.
const debtAfter = 10 * time.Minute

// maxDebts bounds the debt list.
const maxDebts = 1000

// Debts lists what may cost money although nobody wants or knows it, oldest first: what is
// unknown or cannot be deleted for long.
func (l *Ledger) Debts(ctx context.Context, q store.Querier) ([]Record, error) {
	all, err := scanAll(q.QueryContext(ctx, selectDebts, store.Micros(time.Now().Add(-debtAfter)), maxDebts))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	return slices.DeleteFunc(all, func(r Record) bool { return !r.debt(now) }), nil
}

// Cost is what one resource cost in a period.
type Cost struct {
	OwnerKind, OwnerID string
	Kind               backend.ResourceKind
	Price              float64   // US dollars per hour
	From, To           time.Time // the part of the period that it was billed in
}

// USD is the cost in US dollars.
func (c Cost) USD() float64 { return c.Price * c.To.Sub(c.From).Hours() }

// Costs lists what was paid for in a period, derived from the intervals of the intents; ""
// means all projects. What still runs counts up to now.
func Costs(ctx context.Context, q store.Querier, projectID string, from, to time.Time) ([]Cost, error) {
	if now := time.Now(); to.After(now) {
		to = now
	}
	rows, err := q.QueryContext(ctx, selectBilled, projectID, store.Micros(from), store.Micros(to))
	var all []Cost
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var c Cost
		var kind string
		var begin, end int64
		if err := rows.Scan(&c.OwnerKind, &c.OwnerID, &kind, &c.Price, &begin, &end); err != nil {
			return err
		}
		c.Kind = backend.ResourceKind(kind)
		c.From, c.To = store.Time(begin), to
		if end != 0 && store.Time(end).Before(to) {
			c.To = store.Time(end)
		}
		if c.From.Before(from) {
			c.From = from
		}
		all = append(all, c)
		return nil
	})
	return all, err
}
