package ledger

import (
	"context"
	"database/sql"
	"fmt"

	"dstack/internal/store"
)

const selectWanted = `
SELECT id FROM intent WHERE owner_kind = $1 AND owner_id = $2 AND kind = 'instance' AND wanted AND state <> 'gone' ORDER BY created_at DESC, id`

// Wanted lists the intents of an owner's machines that are wanted and not known to be gone, the
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
		return nil, fmt.Errorf("list the machines of %s %s: %w", ownerKind, ownerID, err)
	}
	return ids, nil
}
