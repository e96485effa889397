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

// size is how many instances the text tells of.
func (v *versions) size() int {
	if v.text == "" {
		return 0
	}
	return strings.Count(v.text, " ")/2 + 1
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
	found := make(map[string][]*Instance, len(fleetIDs))
	changes, err := s.changes(ctx, q, fleetIDs)
	if err != nil {
		return nil, err
	}
	open := s.known.unchanged(found, fleetIDs, changes)
	if len(open) == 0 {
		return found, nil
	}
	if changes != nil { // who comes second finds what the first has read
		done, err := s.known.turn(ctx)
		if err != nil {
			return nil, err
		}
		defer done()
		open = s.known.unchanged(found, open, changes)
	}
	changed, err := s.known.texts(ctx, q, open, changes)
	if err != nil {
		return nil, err
	}
	if s.known.recall(q, found, changed); len(changed) == 0 {
		return found, nil
	}
	if changes == nil {
		done, err := s.known.turn(ctx)
		if err != nil {
			return nil, err
		}
		defer done()
		s.known.recall(q, found, changed)
	}
	if err := s.known.fill(ctx, q, changed); err != nil {
		return nil, err
	}
	for id, v := range changed {
		s.known.keep(q, id, *v)
		found[id] = v.list
	}
	return found, nil
}

// fill reads the instances that texts tell of, for one caller at a time.
func (k *known) fill(ctx context.Context, q store.Querier, texts map[string]*versions) error {
	total := 0
	for _, v := range texts {
		total += v.size()
	}
	order := make([]row, 0, total)
	for _, v := range texts {
		v.list = make([]*Instance, 0, v.size())
		for rest := v.text; rest != ""; {
			var id, version string
			id, rest, _ = strings.Cut(rest, " ")
			version, rest, _ = strings.Cut(rest, " ")
			n, err := strconv.ParseInt(version, 10, 64)
			if err != nil {
				return fmt.Errorf("read the version of instance %s: %w", id, err)
			}
			order = append(order, row{id, n})
		}
	}
	list, err := k.read(ctx, q, order)
	if err != nil {
		return err
	}
	for _, i := range list {
		if v := texts[i.FleetID]; v != nil && !i.Deleted { // else it is deleted or elsewhere since the first look
			v.list = append(v.list, i)
		}
	}
	for _, v := range texts {
		slices.SortFunc(v.list, func(a, b *Instance) int { return cmp.Compare(a.Num, b.Num) })
	}
	return nil
}

// texts reads what the instances of fleets are known by, without the lists.
func (k *known) texts(ctx context.Context, q store.Querier, fleetIDs []string, changes map[string]int64) (map[string]*versions, error) {
	texts := make(map[string]*versions, len(fleetIDs))
	for batch := range slices.Chunk(fleetIDs, 500) {
		for _, id := range batch {
			texts[id] = &versions{changes: changes[id]} // one without instances has no text
		}
		rows, err := q.QueryContext(ctx, "SELECT fleet_id, string_agg(id || ' ' || "+store.Version+", ' ') FROM instance WHERE NOT deleted AND fleet_id IN ("+store.Marks(1, len(batch))+") GROUP BY fleet_id", store.Args(batch)...)
		err = store.EachRow(rows, err, func(rows *sql.Rows) error {
			var id, text string
			err := rows.Scan(&id, &text)
			if v := texts[id]; v != nil {
				v.text = text
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read the versions of instances: %w", err)
		}
	}
	return texts, nil
}

// recall finds the lists of the fleets whose texts are the same as when they were read, and leaves
// the others.
func (k *known) recall(q store.Querier, found map[string][]*Instance, texts map[string]*versions) {
	for id, v := range texts {
		k.mu.Lock()
		old, known := k.fleets[id]
		k.mu.Unlock()
		if known && old.text == v.text {
			v.list, found[id] = old.list, old.list
			k.keep(q, id, *v)
			delete(texts, id)
		}
	}
}

// changes counts what was ever written to the instances of fleets, by whomever: a trigger of SQLite
// does. It is nil on PostgreSQL, where those who write to one fleet would wait for each other.
func (s *Service) changes(ctx context.Context, q store.Querier, fleetIDs []string) (map[string]int64, error) {
	if s.DB.Engine() != store.SQLite {
		return nil, nil
	}
	counts := make(map[string]int64, len(fleetIDs))
	for batch := range slices.Chunk(fleetIDs, 500) {
		for _, id := range batch {
			counts[id] = 0 // nothing was ever written
		}
		rows, err := q.QueryContext(ctx, "SELECT fleet_id, changes FROM fleet_changes WHERE fleet_id IN ("+store.Marks(1, len(batch))+")", store.Args(batch)...)
		err = store.EachRow(rows, err, func(rows *sql.Rows) error {
			var id string
			var n int64
			err := store.Scan(rows, &id, &n)
			if counts[id] = n; err != nil { // a count that is none may stay so: what changes is not seen by it
				delete(counts, id)
			}
			return store.DespiteDamage(err)
		})
		if err != nil {
			return nil, fmt.Errorf("read how often the instances of fleets changed: %w", err)
		}
	}
	return counts, nil
}

// unchanged finds the lists of the fleets in which nothing has changed since they were read, and returns
// the others.
func (k *known) unchanged(found map[string][]*Instance, fleetIDs []string, changes map[string]int64) (open []string) {
	if changes == nil {
		return fleetIDs
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, id := range fleetIDs {
		now, counted := changes[id]
		if v, known := k.fleets[id]; known && counted && v.changes == now && (now > 0 || len(v.list) == 0) {
			found[id] = v.list
		} else { // also where there are instances that nobody counted
			open = append(open, id)
		}
	}
	return open
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
	if list, missing := k.remembered(order); len(missing) == 0 {
		return list, nil
	}
	done, err := k.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	return k.read(ctx, q, order)
}

// turn waits until nobody else reads what is new.
func (k *known) turn(ctx context.Context) (done func(), err error) {
	select {
	case k.reading <- struct{}{}:
		return func() { <-k.reading }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// read is of for the one who has the turn.
func (k *known) read(ctx context.Context, q store.Querier, order []row) ([]*Instance, error) {
	list, missing := k.remembered(order)
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

// remembered are those of the instances that are known, in their places, and the places of the others.
func (k *known) remembered(order []row) (list []*Instance, missing map[string]int) {
	list, missing = make([]*Instance, len(order)), map[string]int{}
	for n, r := range order {
		if i, version := k.rows.Get(r.id); version == r.version {
			list[n] = i
		} else {
			missing[r.id] = n
		}
	}
	return list, missing
}
