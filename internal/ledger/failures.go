package ledger

import (
	"context"
	"database/sql"
	"time"

	"dstack/internal/backend"
	"dstack/internal/store"
)

// maxFailures bounds a list of failures.
const maxFailures = 1000

// A Failure is an instance that was asked for and never existed.
type Failure struct {
	ProjectID, Backend, Region, Instance string
	Spot                                 bool
	Outcome                              Outcome
	At                                   time.Time // when it was asked for
	Until                                time.Time // when it was known that there is none
}

const selectFailures = `
SELECT ` + columns + ` FROM intent
WHERE  state = 'gone' AND billed_from = 0 AND created_at > $1
ORDER BY created_at DESC LIMIT $2`

// Failures lists what could not be had since a time, the latest first. It leaves out what was
// not wanted any more before it was asked for, what became too dear, and what was forgotten.
func Failures(ctx context.Context, q store.Querier, since time.Time) ([]Failure, error) {
	rows, err := q.QueryContext(ctx, selectFailures, store.Micros(since), maxFailures)
	var all []Failure
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		r, err := scan(rows)
		if err != nil || r.Kind != backend.InstanceResource || r.Doc.Create == nil {
			return err
		}
		switch r.Doc.Outcome {
		case Cancelled, Forgotten, TooDear:
			return nil
		}
		o := r.Doc.Create.Offer
		all = append(all, Failure{
			ProjectID: r.ProjectID, Backend: r.Backend, Region: o.Region, Instance: o.Instance, Spot: o.Resources.Spot, Outcome: r.Doc.Outcome, At: r.CreatedAt, Until: r.Doc.GoneAt.UTC(),
		})
		return nil
	})
	return all, err
}
