package instance

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
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
	return s.live(ctx, q, "project_id = $1", projectID)
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
	return s.live(ctx, q, "fleet_id IN ("+params(1, len(args))+")", args...)
}

func (s *Service) live(ctx context.Context, q store.Querier, where string, args ...any) ([]*Instance, error) {
	list, err := s.known.list(ctx, q, "NOT deleted AND "+where+" ORDER BY fleet_id, num", args...)
	return slices.DeleteFunc(list, func(i *Instance) bool { return i.Deleted }), err // since the first look
}

// row is what is read of an instance to see whether it is known.
type row struct {
	id      string
	version int64
}

// List returns a page of instances, also of deleted ones, newest first. They are shared:
// nobody changes them.
func (s *Service) List(ctx context.Context, q store.Querier, f Filter) ([]*Instance, error) {
	if len(f.Projects) == 0 || f.Fleets != nil && len(f.Fleets) == 0 {
		return nil, nil
	}
	tail, args := f.where()
	return s.known.list(ctx, q, tail, args...)
}

// list reads what follows FROM instance WHERE.
func (k *known) list(ctx context.Context, q store.Querier, tail string, args ...any) ([]*Instance, error) {
	var order []row
	rows, err := q.QueryContext(ctx, "SELECT id, version FROM instance WHERE "+tail, args...)
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
	list := make([]*Instance, len(order))
	missing := map[string]int{} // where in the list
	for n, r := range order {
		// A row and its assignments change together with the version.
		if i := k.byID[r.id]; i != nil && i.Version >= r.version {
			list[n] = i
		} else {
			missing[r.id] = n
		}
	}
	loaded, err := ByID(ctx, q, slices.Collect(maps.Keys(missing)))
	if err != nil {
		return nil, err
	}
	for _, i := range loaded {
		list[missing[i.ID]] = i
		k.remember(i)
	}
	return slices.DeleteFunc(list, func(i *Instance) bool { return i == nil }), nil
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
