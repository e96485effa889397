package instance

import (
	"context"
	"database/sql"
	"fmt"
	"sync"

	"dstack/internal/store"
)

// maxKnown bounds the instances that are remembered.
const maxKnown = 20_000

// known remembers instances by their versions: to read and decode ten thousand rows takes a
// second, to see that they have not changed some milliseconds.
type known struct {
	mu   sync.Mutex
	byID map[string]*Instance
}

// OfProject returns the instances of a project that are not deleted, by fleet and number. They
// are shared: nobody changes them.
func (s *Service) OfProject(ctx context.Context, q store.Querier, projectID string) ([]*Instance, error) {
	return s.known.list(ctx, q, "project_id = $1", projectID)
}

// InFleets is [Service.OfProject] for fleets.
func (s *Service) InFleets(ctx context.Context, q store.Querier, fleetIDs ...string) ([]*Instance, error) {
	if len(fleetIDs) == 0 {
		return nil, nil
	}
	args := make([]any, len(fleetIDs))
	for i, id := range fleetIDs {
		args[i] = id
	}
	return s.known.list(ctx, q, "fleet_id IN ("+params(1, len(args))+")", args...)
}

func (k *known) list(ctx context.Context, q store.Querier, where string, args ...any) ([]*Instance, error) {
	type row struct {
		id      string
		version int64
	}
	var order []row
	rows, err := q.QueryContext(ctx, "SELECT id, version FROM instance WHERE NOT deleted AND "+where+" ORDER BY fleet_id, num", args...)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var r row
		err := rows.Scan(&r.id, &r.version)
		order = append(order, r)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the versions of instances: %w", err)
	}
	k.mu.Lock() // of callers at a time, one reads what is new
	defer k.mu.Unlock()
	found := make(map[string]*Instance, len(order))
	var missing []string
	for _, r := range order {
		// A row and its assignments change together with the version.
		if i := k.byID[r.id]; i != nil && i.Version >= r.version {
			found[r.id] = i
		} else {
			missing = append(missing, r.id)
		}
	}
	loaded, err := ByID(ctx, q, missing)
	if err != nil {
		return nil, err
	}
	for _, i := range loaded {
		found[i.ID] = i
		k.remember(i)
	}
	list := make([]*Instance, 0, len(order))
	for _, r := range order {
		if i := found[r.id]; i != nil && !i.Deleted {
			list = append(list, i)
		}
	}
	return list, nil
}

// remember wants the mutex held.
func (k *known) remember(i *Instance) {
	if k.byID == nil {
		k.byID = map[string]*Instance{}
	}
	if k.byID[i.ID] == nil && len(k.byID) >= maxKnown {
		for id := range k.byID { // any
			delete(k.byID, id)
			break
		}
	}
	k.byID[i.ID] = i
}
