package ledger

import (
	"cmp"
	"context"
	"slices"
	"time"

	"dstack/internal/offer"
	"dstack/internal/store"
)

// A Dearer is a machine of which its provider told, once it was there, that it costs more than was
// allowed.
type Dearer struct {
	offer.Key
	Offered, Price float64   // US dollars per hour, when it was asked for and really
	At             time.Time // when it was given back, or asked for while it was not
}

// selectDearer reads what is in doubt or being deleted, and what ended since a time, by an index each.
const selectDearer = `
SELECT ` + columns + ` FROM intent
WHERE  project_id = $1 AND (NOT idle OR astray) AND state <> 'gone' AND billed_from > 0 AND kind = 'instance' AND doc LIKE '%"max_price":%'
UNION ALL
SELECT ` + columns + ` FROM intent
WHERE  project_id = $1 AND billed_from > 0 AND billed_to > $2 AND kind = 'instance' AND doc LIKE '%"max_price":%'
ORDER BY created_at DESC LIMIT $3`

// selectLatest reads machines that were billed since a time, the latest first.
const selectLatest = `
SELECT ` + columns + ` FROM intent
WHERE  project_id = $1 AND kind = 'instance' AND billed_from > $2
ORDER BY created_at DESC LIMIT $3`

// maxEvidence bounds the machines that are looked at for what costs no more than listed again.
const maxEvidence = 200

// Dearers lists what cost a project more than was allowed, since a time and now, the latest last, but
// for offers of which a younger machine costs what it was offered for.
func Dearers(ctx context.Context, q store.Querier, projectID string, since time.Time) ([]Dearer, error) {
	records, err := scanAll(q.QueryContext(ctx, selectDearer, projectID, store.Micros(since), maxFailures))
	if err != nil {
		return nil, err
	}
	var all []Dearer
	for _, r := range records {
		if r.Doc.Create == nil || r.Doc.MaxPrice == nil || !r.Doc.Priced || r.Price <= *r.Doc.MaxPrice {
			continue
		}
		all = append(all, Dearer{Key: r.key(), Offered: r.Doc.Create.Offer.Price, Price: r.Price, At: cmp.Or(r.Doc.DeletingAt, r.CreatedAt)})
	}
	slices.SortStableFunc(all, func(a, b Dearer) int { return a.At.Compare(b.At) })
	if len(all) == 0 {
		return nil, nil
	}
	younger, err := scanAll(q.QueryContext(ctx, selectLatest, projectID, store.Micros(since), maxEvidence))
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(d Dearer) bool {
		return slices.ContainsFunc(younger, func(r Record) bool {
			return r.key() == d.Key && r.Doc.Priced && r.Price <= d.Offered && r.CreatedAt.After(d.At)
		})
	}), nil
}

// key names the offer of which a machine was asked for, the zero value for nothing.
func (r *Record) key() offer.Key {
	if r.Doc.Create == nil {
		return offer.Key{}
	}
	o := r.Doc.Create.Offer
	return offer.Key{Backend: r.Backend, Region: o.Region, Instance: o.Instance, Spot: o.Resources.Spot}
}
