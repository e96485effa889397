package ledger

import (
	"context"
	"database/sql"
	"fmt"

	"dstack/internal/store"
)

const selectWanted = `
SELECT id FROM intent WHERE owner_kind = $1 AND owner_id = $2 AND kind IN ('instance', 'volume') AND wanted AND state <> 'gone' ORDER BY created_at DESC, id`

// maxLeft bounds what is left of an account.
const maxLeft = 1000

const selectLeft = `
SELECT ` + columns + ` FROM intent
WHERE  project_id = $1 AND (backend = $2 OR $2 = '') AND state <> 'gone' AND state <> 'intended'
ORDER  BY created_at, id LIMIT $3`

// Left lists what may cost money in a project at a backend, "" for all: what nobody could end any more
// without the backend. Instances and volumes may be gone long since that it is for, and what a sweep
// found is for none; a placement group outlives the last instance in it.
func (l *Ledger) Left(ctx context.Context, q store.Querier, projectID, name string) ([]Record, error) {
	left, err := scanAll(q.QueryContext(ctx, selectLeft, projectID, name, maxLeft))
	if err != nil {
		return nil, fmt.Errorf("list what is left of project %s: %w", projectID, err)
	}
	return left, nil
}

// Wanted lists the intents of an owner's machines or disks that are wanted and not known to be gone, the
// newest first.
func (l *Ledger) Wanted(ctx context.Context, q store.Querier, ownerKind, ownerID string) ([]string, error) {
	var ids []string
	rows, err := q.QueryContext(ctx, selectWanted, ownerKind, ownerID)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var id string
		err := rows.Scan(&id)
		ids = append(ids, id)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list what %s %s has: %w", ownerKind, ownerID, err)
	}
	return ids, nil
}
