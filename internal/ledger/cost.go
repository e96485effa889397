package ledger

import (
	"context"
	"database/sql"
	"fmt"
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

// Which chooses what [Costs] lists.
type Which struct {
	Projects []string // ids; nil: of all
	Owners   []string // ids of instances; nil: of all that costs money
	From, To time.Time
	Now      time.Time // optional: when it is asked, zero for the present
}

// Cost is what one resource cost in a part of a period, in which its price was the same.
type Cost struct {
	Interval
	ID                 string // of the intent
	ProjectID          string
	OwnerKind, OwnerID string // of what the sweep found without an owner ""
	Kind               backend.ResourceKind
	Backend            string
	Open               bool // the period ends now, and nobody has confirmed that it ended
	Doubt              bool // nobody has confirmed it since [Record.DoubtedSince]
}

// Costs lists what was paid for in a period, derived from the intervals of the intents. What is
// not confirmed to be gone counts up to now. It is one query, and one for what is in doubt.
func Costs(ctx context.Context, q store.Querier, w Which) ([]Cost, error) {
	now := w.Now
	if now.IsZero() {
		now = time.Now()
	}
	if w.To.After(now) {
		w.To = now
	}
	doubts := map[string]time.Time{}
	err := w.each(func(cond string, args []any) error {
		open, err := scanAll(q.QueryContext(ctx, selectOpen+cond, args...))
		for _, r := range open {
			if since, doubted := r.DoubtedSince(now); doubted {
				doubts[r.ID] = since
			}
		}
		return err
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("list what is in doubt: %w", err)
	}
	var all []Cost
	err = w.each(func(cond string, args []any) error {
		rows, err := q.QueryContext(ctx, selectBilled+cond, args...)
		return store.EachRow(rows, err, func(rows *sql.Rows) error {
			c, b, err := scanBilled(rows)
			if err != nil {
				return err
			}
			since, doubted := doubts[c.ID]
			for _, part := range b.In(w.From, w.To) {
				c.Interval, c.Doubt = part, false
				c.Open = b.To.IsZero() && part.To.Equal(now)
				if b.To.IsZero() && doubted {
					all = append(all, c.doubted(since)...)
				} else {
					all = append(all, c)
				}
			}
			return nil
		})
	}, []any{store.Micros(w.From), store.Micros(w.To)})
	if err != nil {
		return nil, fmt.Errorf("list what was paid for: %w", err)
	}
	return all, nil
}

// each calls ask with conditions that together say what is chosen, and args with those of the
// conditions behind them. There is more than one for lists of more than 500 ids.
func (w Which) each(ask func(cond string, args []any) error, args []any) error {
	column, ids := "project_id", w.Projects
	if w.Owners != nil {
		column, ids = "owner_kind = 'instance' AND owner_id", w.Owners
	}
	if w.Projects == nil && w.Owners == nil {
		return ask("", args)
	}
	for batch := range slices.Chunk(ids, 500) {
		all := slices.Clone(args)
		for _, id := range batch {
			all = append(all, id)
		}
		if err := ask(" AND "+column+" IN ("+store.Marks(len(args)+1, len(batch))+")", all); err != nil {
			return err
		}
	}
	return nil
}

func scanBilled(rows *sql.Rows) (Cost, Billed, error) {
	var c Cost
	var b Billed
	var kind string
	var begin, end int64
	err := store.Scan(rows, &c.ID, &c.ProjectID, &c.OwnerKind, &c.OwnerID, &kind, &c.Backend, &b.Price, &begin, &end, &b.Earlier)
	err = store.DespiteDamage(credible(&b.Price, err)) // what was before nobody knows: all at the present price
	c.Kind = backend.ResourceKind(kind)
	b.From, b.To = store.Time(begin), store.Time(end)
	return c, b, err
}

// doubted are the parts of a cost before and from since on, when it is in doubt.
func (c Cost) doubted(since time.Time) []Cost {
	before, after := c, c
	after.Doubt = true
	switch {
	case !since.Before(c.To):
		return []Cost{before}
	case !since.After(c.From):
		return []Cost{after}
	}
	before.To, before.Open, after.From = since, false, since
	return []Cost{before, after}
}

// questioned says that what was asked about a resource by [Ledger.Check] is not answered.
func (r Record) questioned() bool {
	return (r.State == Created || r.State == Deleting) && r.checkAt.After(r.Doc.DescribedAt) && r.checkAt.After(r.Doc.SeenAt)
}

// DoubtedSince says since when it is not certain what became of a resource that costs money, if it is
// not: it cannot be deleted for longer than normal, its provider shows it no more or its present
// credentials do not know it, or what was asked about it is not answered for as long.
func (r Record) DoubtedSince(now time.Time) (since time.Time, doubted bool) {
	if r.State == Gone {
		return time.Time{}, false
	}
	doubt := func(is bool, from time.Time) {
		if is && (!doubted || from.Before(since)) {
			since, doubted = from, true
		}
	}
	doubt(r.State == Unknown && r.debt(now), r.Doc.TriedAt)
	doubt(r.State == Deleting && r.debt(now), r.Doc.DeletingAt)
	doubt(r.Astray(), r.Doc.AstrayAt)
	doubt(r.questioned() && now.Sub(r.checkAt) > debtAfter, r.checkAt)
	doubt(!r.Doc.MissingAt.IsZero(), r.Doc.MissingAt)
	doubt(r.Doc.Damage != "", time.Time{}) // nothing is known of it
	return since, doubted
}
