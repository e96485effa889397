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

// versions are the instances of a fleet, and its number of [Service.changes] when they were looked at.
type versions struct {
	changes int64
	list    []*Instance
	// written are instances as this server has stored them since, by the numbers that this made, before
	// it is committed: nobody sees the number earlier.
	written map[int64]*Instance
}

// maxWritten bounds what is remembered of a fleet for whoever looks at it next.
const maxWritten = 256

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
	return s.wrote(ctx, tx, &written)
}

// wrote remembers an instance that was stored by the number that this made, see [Service.changes], so that
// whoever looks at its fleet next need not look for what has changed. There is one writer at a time, so the
// number is this write's alone; what anybody else writes has numbers that are not remembered. The digest
// of PostgreSQL tells no such thing.
func (s *Service) wrote(ctx context.Context, tx *store.Tx, i *Instance) error {
	if s.DB.Engine() != store.SQLite || !s.known.lookedAt(i.FleetID) {
		return nil
	}
	var n int64
	err := store.Scan(tx.QueryRowContext(ctx, `SELECT changes FROM fleet_changes WHERE fleet_id = $1`, i.FleetID), &n)
	if _, damaged := errors.AsType[*store.Damage](err); damaged || errors.Is(err, sql.ErrNoRows) { // by hand: nobody counts
		return nil
	}
	if err != nil {
		return fmt.Errorf("read how often the instances of a fleet changed: %w", err)
	}
	tx.OnUndo(func() { s.known.undone(n, i) })
	s.known.wrote(n, i)
	return nil
}

// lookedAt says that the instances of a fleet are remembered.
func (k *known) lookedAt(fleetID string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, there := k.fleets[fleetID]
	return there
}

func (k *known) wrote(n int64, i *Instance) {
	k.mu.Lock()
	defer k.mu.Unlock()
	v, there := k.fleets[i.FleetID]
	switch {
	case !there || n <= v.changes: // by hand: counted anew
		return
	case len(v.written) >= maxWritten: // nobody looks any more
		delete(k.fleets, i.FleetID)
		return
	case v.written == nil:
		v.written = map[int64]*Instance{}
		k.fleets[i.FleetID] = v
	}
	v.written[n] = i
}

func (k *known) undone(n int64, i *Instance) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if v := k.fleets[i.FleetID]; v.written[n] == i {
		delete(v.written, n)
	}
}

// follow brings the list to another number, which it can where all that was written since is known.
func (v *versions) follow(number int64) bool {
	if number < v.changes {
		return false
	}
	for n := v.changes + 1; n <= number; n++ {
		if v.written[n] == nil {
			return false
		}
	}
	v.list = slices.Clone(v.list) // others look at the old one
	for v.changes < number {
		v.changes++
		v.list = put(v.list, v.written[v.changes])
		delete(v.written, v.changes)
	}
	return true
}

func byNum(a, b *Instance) int { return cmp.Compare(a.Num, b.Num) }

// put is a list by number with an instance as it is now.
func put(list []*Instance, i *Instance) []*Instance {
	at, there := slices.BinarySearchFunc(list, i, byNum)
	switch there = there && list[at].ID == i.ID; {
	case there && i.Deleted:
		return slices.Delete(list, at, at+1)
	case there:
		list[at] = i
	case !i.Deleted:
		list = slices.Insert(list, at, i)
	}
	return list
}

// InFleets returns the instances of fleets that are not deleted, by fleet and in the order of
// their numbers. They are shared, and so are the lists: nobody changes them. The list of a
// fleet is the same one for as long as nothing in it changes.
//
// It reads the ids and versions of a fleet's instances as one text, which is a third of the
// work of so many rows, and not even that where it is known what has changed.
func (s *Service) InFleets(ctx context.Context, q store.Querier, fleetIDs ...string) (map[string][]*Instance, error) {
	found := make(map[string][]*Instance, len(fleetIDs))
	changes, err := s.changes(ctx, q, fleetIDs)
	if err != nil {
		return nil, err
	}
	open := s.known.unchanged(q, found, fleetIDs, changes)
	if len(open) == 0 {
		return found, nil
	}
	done, err := s.known.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	if changes, err = s.changes(ctx, q, open); err != nil { // who comes second finds what the first has read
		return nil, err
	}
	open = s.known.unchanged(q, found, open, changes)
	texts, err := s.texts(ctx, q, open, changes)
	if err != nil {
		return nil, err
	}
	lists, err := s.known.fill(ctx, q, texts)
	if err != nil {
		return nil, err
	}
	for _, id := range open {
		found[id] = s.known.keep(q, id, versions{changes: changes[id], list: lists[id]})
	}
	return found, nil
}

// fill reads the instances that texts tell of, for one caller at a time.
func (k *known) fill(ctx context.Context, q store.Querier, texts map[string]string) (map[string][]*Instance, error) {
	total := 0
	for _, text := range texts {
		total += strings.Count(text, " ")/2 + 1
	}
	order := make([]row, 0, total)
	lists := make(map[string][]*Instance, len(texts))
	for fleet, rest := range texts {
		before := len(order)
		for rest != "" {
			var id, version string
			id, rest, _ = strings.Cut(rest, " ")
			version, rest, _ = strings.Cut(rest, " ")
			n, err := strconv.ParseInt(version, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("read the version of instance %s: %w", id, err)
			}
			order = append(order, row{id, n})
		}
		lists[fleet] = make([]*Instance, 0, len(order)-before)
	}
	list, err := k.read(ctx, q, order)
	if err != nil {
		return nil, err
	}
	for _, i := range list {
		if of, asked := lists[i.FleetID]; asked && !i.Deleted { // else it is deleted or elsewhere since the first look
			lists[i.FleetID] = append(of, i)
		}
	}
	for _, of := range lists {
		slices.SortFunc(of, byNum)
	}
	return lists, nil
}

// texts reads the ids and versions of the instances of fleets, and on PostgreSQL what [Service.changes]
// tells of the same moment: an instance that came after the first look and went again would leave the
// number of the first look.
func (s *Service) texts(ctx context.Context, q store.Querier, fleetIDs []string, changes map[string]int64) (map[string]string, error) {
	digest, digested := "0", s.DB.Engine() == store.Postgres
	if digested {
		digest = digestOfVersions
	}
	texts := make(map[string]string, len(fleetIDs))
	for batch := range slices.Chunk(fleetIDs, 500) {
		for _, id := range batch {
			if digested { // nothing is told of one without instances
				changes[id] = 0
			}
		}
		rows, err := q.QueryContext(ctx, "SELECT fleet_id, "+digest+", string_agg(id || ' ' || "+store.Version+", ' ') FROM instance WHERE NOT deleted AND fleet_id IN ("+store.Marks(1, len(batch))+") GROUP BY fleet_id", store.Args(batch)...)
		err = store.EachRow(rows, err, func(rows *sql.Rows) error {
			var id, text string
			var n int64
			err := rows.Scan(&id, &n, &text)
			if texts[id] = text; digested {
				changes[id] = n
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read the versions of instances: %w", err)
		}
	}
	return texts, nil
}

// digestOfVersions is a number of a fleet's instances, in the SQL of PostgreSQL: another one for others and
// for other versions, but by a chance of 1 in 2^62, in whatever order they are looked at.
const digestOfVersions = `CAST(mod(sum(hashtextextended(id, version)), 4611686018427387904) AS BIGINT)`

// changes are numbers of fleets that become others when something is written to their instances, by
// whomever; 0 where nothing ever was. On SQLite a trigger counts. On PostgreSQL those who write to one fleet
// would wait for each other, and a number that is given before the commit would be seen without what was
// committed later under a lower one: there it is made of the versions at each look, which is a third of the
// work of reading them and depends on nothing else.
func (s *Service) changes(ctx context.Context, q store.Querier, fleetIDs []string) (map[string]int64, error) {
	query := "SELECT fleet_id, changes FROM fleet_changes WHERE fleet_id IN (%s)"
	if s.DB.Engine() == store.Postgres {
		query = "SELECT fleet_id, " + digestOfVersions + " FROM instance WHERE NOT deleted AND fleet_id IN (%s) GROUP BY fleet_id"
	}
	numbers := make(map[string]int64, len(fleetIDs))
	for batch := range slices.Chunk(fleetIDs, 500) {
		for _, id := range batch {
			numbers[id] = 0
		}
		rows, err := q.QueryContext(ctx, fmt.Sprintf(query, store.Marks(1, len(batch))), store.Args(batch)...)
		err = store.EachRow(rows, err, func(rows *sql.Rows) error {
			var id string
			var n int64
			err := store.Scan(rows, &id, &n)
			if numbers[id] = n; err != nil { // a count that is none may stay so: what changes is not seen by it
				delete(numbers, id)
			}
			return store.DespiteDamage(err)
		})
		if err != nil {
			return nil, fmt.Errorf("look whether instances of fleets have changed: %w", err)
		}
	}
	return numbers, nil
}

// unchanged finds the lists of the fleets of which all that has changed since they were read is known, and
// returns the others.
func (k *known) unchanged(q store.Querier, found map[string][]*Instance, fleetIDs []string, changes map[string]int64) (open []string) {
	_, undoable := q.(*store.Tx) // which sees numbers that are not committed
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, id := range fleetIDs {
		now, counted := changes[id]
		if v, known := k.fleets[id]; known && counted && (v.changes == now || !undoable && v.follow(now)) && (now != 0 || len(v.list) == 0) {
			found[id], k.fleets[id] = v.list, v
		} else { // also where there are instances that nobody counted
			open = append(open, id)
		}
	}
	return open
}

// keep remembers the list of a fleet, which is the old one where that is the same.
func (k *known) keep(q store.Querier, fleetID string, v versions) []*Instance {
	if _, undoable := q.(*store.Tx); undoable {
		return v.list
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	old, there := k.fleets[fleetID]
	if !there && len(k.fleets) >= maxFleets {
		for other := range k.fleets { // any
			delete(k.fleets, other)
			break
		}
	}
	if slices.Equal(old.list, v.list) {
		v.list = old.list
	}
	if v.changes >= old.changes {
		v.written = old.written
		maps.DeleteFunc(v.written, func(n int64, _ *Instance) bool { return n <= v.changes })
	}
	k.fleets[fleetID] = v
	return v.list
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
