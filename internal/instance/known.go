package instance

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"dstack/internal/store"
)

// maxKnown bounds the instances that are remembered.
const maxKnown = 20_000

// known remembers instances by their versions: to read and decode ten thousand rows takes a
// second, to see that they have not changed some milliseconds. A row and its assignments
// change together with the version. They are shared: nobody changes them.
type known struct {
	mu     sync.Mutex
	fleets map[string]versions // by id

	rows    store.Cache[*Instance]
	reading chan struct{} // holds a token while somebody reads what is new: one of the callers at a time
}

// versions are the instances of a fleet, the ids and versions by which they were found, and how many
// changes there had been before that, see [Service.changes].
type versions struct {
	changes int64
	text    string
	list    []*Instance
}

// maxFleets bounds the fleets whose lists are remembered.
const maxFleets = 2_000

func newKnown() *known {
	return &known{fleets: map[string]versions{}, rows: store.Cache[*Instance]{Max: maxKnown}, reading: make(chan struct{}, 1)}
}

// Get is [Get] for an instance that is probably known.
func (s *Service) Get(ctx context.Context, q store.Querier, id string) (Instance, error) {
	if known, version := s.known.rows.Get(id); version != store.Unknown {
		var now int64
		err := q.QueryRowContext(ctx, `SELECT `+store.Version+` FROM instance WHERE id = $1`, id).Scan(&now)
		if err == nil && now == version {
			return *known, nil
		}
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return Instance{}, fmt.Errorf("read the version of an instance: %w", err)
		}
	}
	i, err := Get(ctx, q, id)
	if err == nil {
		s.known.rows.Read(q, id, i.Version, &i)
	}
	return i, err
}

// update stores a row that was read and changed; its assignments are as they are now stored.
func (s *Service) update(ctx context.Context, tx *store.Tx, i *Instance) error {
	if err := update(ctx, tx, i); err != nil {
		return err
	}
	written := *i
	s.known.rows.Written(tx, i.ID, i.Version, &written)
	return nil
}

// InFleets returns the instances of fleets that are not deleted, by fleet and in the order of
// their numbers. They are shared, and so are the lists: nobody changes them. The list of a
// fleet is the same one for as long as nothing in it changes.
//
// It reads the ids and versions of a fleet's instances as one text, which is a third of the
// work of so many rows, and not even that where it is known that nothing changed. Most often it is
// the text of the last time.
func (s *Service) InFleets(ctx context.Context, q store.Querier, fleetIDs ...string) (map[string][]*Instance, error) {
	found := map[string][]*Instance{}
	changes, err := s.changes(ctx, q, fleetIDs)
	if err != nil {
		return nil, err
	}
	var open []string // fleets of which nothing is known yet
	for _, id := range fleetIDs {
		if list, same := s.known.unchanged(id, changes); same {
			found[id] = list
		} else {
			open = append(open, id)
		}
	}
	changed := map[string]string{} // their texts
	for batch := range slices.Chunk(open, 500) {
		rows, err := q.QueryContext(ctx, "SELECT fleet_id, string_agg(id || ' ' || "+store.Version+", ' ') FROM instance WHERE NOT deleted AND fleet_id IN ("+store.Marks(1, len(batch))+") GROUP BY fleet_id", store.Args(batch)...)
		err = store.EachRow(rows, err, func(rows *sql.Rows) error {
			var id, text string
			err := rows.Scan(&id, &text)
			if list, known := s.known.recall(id, text); known {
				found[id] = list
				s.known.keep(q, id, versions{changes[id], text, list})
			} else {
				changed[id] = text
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read the versions of instances: %w", err)
		}
	}
	if len(changed) == 0 {
		return found, nil
	}
	var order []row
	for _, text := range changed {
		for pair := range slices.Chunk(strings.Fields(text), 2) {
			version, err := strconv.ParseInt(pair[1], 10, 64)
			if err != nil {
				return nil, fmt.Errorf("read the version of instance %s: %w", pair[0], err)
			}
			order = append(order, row{pair[0], version})
		}
	}
	list, err := s.known.of(ctx, q, order)
	if err != nil {
		return nil, err
	}
	for _, i := range list {
		if !i.Deleted { // since the first look
			found[i.FleetID] = append(found[i.FleetID], i)
		}
	}
	for id, text := range changed {
		slices.SortFunc(found[id], func(a, b *Instance) int { return cmp.Compare(a.Num, b.Num) })
		s.known.keep(q, id, versions{changes[id], text, found[id]})
	}
	return found, nil
}

// changes counts what was ever written to the instances of fleets, by whomever: a trigger of SQLite
// does. It is nil on PostgreSQL, where those who write to one fleet would wait for each other.
func (s *Service) changes(ctx context.Context, q store.Querier, fleetIDs []string) (map[string]int64, error) {
	if s.DB.Engine() != store.SQLite {
		return nil, nil
	}
	counts := make(map[string]int64, len(fleetIDs))
	for batch := range slices.Chunk(fleetIDs, 500) {
		rows, err := q.QueryContext(ctx, "SELECT fleet_id, changes FROM fleet_changes WHERE fleet_id IN ("+store.Marks(1, len(batch))+")", store.Args(batch)...)
		err = store.EachRow(rows, err, func(rows *sql.Rows) error {
			var id string
			var n int64
			err := store.Scan(rows, &id, &n)
			if err == nil { // a count that is none may stay so: what changes is not seen by it
				counts[id] = n
			}
			return store.DespiteDamage(err)
		})
		if err != nil {
			return nil, fmt.Errorf("read how often the instances of fleets changed: %w", err)
		}
	}
	return counts, nil
}

// unchanged returns a fleet's list when nothing has changed since it was read.
func (k *known) unchanged(fleetID string, changes map[string]int64) ([]*Instance, bool) {
	now, counted := changes[fleetID]
	if !counted {
		return nil, false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	v, known := k.fleets[fleetID]
	return v.list, known && v.changes == now
}

// recall returns a fleet's list whose text is the same as when it was read.
func (k *known) recall(fleetID, text string) ([]*Instance, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	v, known := k.fleets[fleetID]
	return v.list, known && v.text == text
}

func (k *known) keep(q store.Querier, fleetID string, v versions) {
	if _, undoable := q.(*store.Tx); undoable {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, there := k.fleets[fleetID]; !there && len(k.fleets) >= maxFleets {
		for other := range k.fleets { // any
			delete(k.fleets, other)
			break
		}
	}
	k.fleets[fleetID] = v
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
	rows, err := q.QueryContext(ctx, "SELECT id, "+store.Version+" FROM instance WHERE "+tail, args...)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var r row
		err := rows.Scan(&r.id, &r.version)
		order = append(order, r)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the versions of instances: %w", err)
	}
	return k.of(ctx, q, order)
}

// of returns instances in an order, and reads those that are not known.
func (k *known) of(ctx context.Context, q store.Querier, order []row) ([]*Instance, error) {
	select {
	case k.reading <- struct{}{}:
		defer func() { <-k.reading }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	list := make([]*Instance, len(order))
	missing := map[string]int{} // where in the list
	for n, r := range order {
		if i, version := k.rows.Get(r.id); version == r.version {
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
		k.rows.Read(q, i.ID, i.Version, i)
	}
	return slices.DeleteFunc(list, func(i *Instance) bool { return i == nil }), nil
}
