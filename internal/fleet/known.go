package fleet

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"sync"

	"dstack/internal/store"
)

// maxKnown bounds the fleets that are remembered.
const maxKnown = 2_000

// known remembers fleets by their versions: the configuration of one with hundreds of hosts
// takes a millisecond to read.
type known struct {
	mu   sync.Mutex
	byID map[string]Fleet
}

// list reads what follows FROM fleet. What it returns is shared: nobody changes what a fleet's
// spec points to.
func (k *known) list(ctx context.Context, q store.Querier, tail string, args ...any) ([]Fleet, error) {
	var list []Fleet
	missing := map[string]int{} // where in the list
	k.mu.Lock()                 // of callers at a time, one reads what is new
	defer k.mu.Unlock()
	rows, err := q.QueryContext(ctx, "SELECT id, version FROM fleet "+tail, args...)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var id string
		var version int64
		err := rows.Scan(&id, &version)
		f := k.byID[id]
		if f.Version < version {
			missing[id] = len(list)
		}
		list = append(list, f)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the versions of fleets: %w", err)
	}
	ids := make([]any, 0, len(missing))
	for id := range missing {
		ids = append(ids, id)
	}
	for batch := range slices.Chunk(ids, 500) {
		loaded, err := query(ctx, q, "WHERE id IN ("+marks(len(batch))+")", batch...)
		if err != nil {
			return nil, err
		}
		for _, f := range loaded {
			list[missing[f.ID]] = f
			k.remember(f)
		}
	}
	return slices.DeleteFunc(list, func(f Fleet) bool { return f.ID == "" }), nil
}

// remember wants the mutex held.
func (k *known) remember(f Fleet) {
	if k.byID == nil {
		k.byID = map[string]Fleet{}
	}
	if _, there := k.byID[f.ID]; !there && len(k.byID) >= maxKnown {
		for id := range k.byID { // any
			delete(k.byID, id)
			break
		}
	}
	k.byID[f.ID] = f
}
