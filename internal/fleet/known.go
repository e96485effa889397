package fleet

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"dstack/internal/store"
)

// maxKnown bounds the fleets that are remembered.
const maxKnown = 2_000

// known remembers fleets by their versions: the configuration of one with hundreds of hosts
// takes a millisecond to read. They are shared: nobody changes what a fleet's spec points to.
type known struct {
	rows    store.Cache[Fleet]
	reading chan struct{} // holds a token while somebody reads what is new: one of the callers at a time
}

func newKnown() *known {
	return &known{rows: store.Cache[Fleet]{Max: maxKnown}, reading: make(chan struct{}, 1)}
}

// byID reads one fleet.
func (k *known) byID(ctx context.Context, q store.Querier, id string) (Fleet, error) {
	if f, version := k.rows.Get(id); version != store.Unknown {
		var now int64
		err := q.QueryRowContext(ctx, "SELECT "+store.Version+" FROM fleet WHERE id = $1", id).Scan(&now)
		if err == nil && now == version {
			return f, nil
		}
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return Fleet{}, fmt.Errorf("read the version of a fleet: %w", err)
		}
	}
	f, err := get(ctx, q, "id = $1", id)
	if err == nil {
		k.rows.Read(q, id, f.Version, f)
	}
	return f, err
}

// row is what is read of a fleet to see whether it is known.
type row struct {
	id      string
	version int64
}

// list reads what follows FROM fleet.
func (k *known) list(ctx context.Context, q store.Querier, tail string, args ...any) ([]Fleet, error) {
	var order []row
	rows, err := q.QueryContext(ctx, "SELECT id, "+store.Version+" FROM fleet "+tail, args...)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var r row
		err := rows.Scan(&r.id, &r.version)
		order = append(order, r)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the versions of fleets: %w", err)
	}
	list, missing := k.recall(order)
	if len(missing) == 0 {
		return list, nil
	}
	select {
	case k.reading <- struct{}{}:
		defer func() { <-k.reading }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	list, missing = k.recall(order) // somebody else may have read them meanwhile
	ids := make([]any, 0, len(missing))
	for id := range missing {
		ids = append(ids, id)
	}
	for batch := range slices.Chunk(ids, 500) {
		loaded, err := query(ctx, q, "WHERE id IN ("+store.Marks(1, len(batch))+")", batch...)
		if err != nil {
			return nil, err
		}
		for _, f := range loaded {
			list[missing[f.ID]] = f
			k.rows.Read(q, f.ID, f.Version, f)
		}
	}
	return slices.DeleteFunc(list, func(f Fleet) bool { return f.ID == "" }), nil
}

// recall returns fleets in an order, and where in it those are that are not known.
func (k *known) recall(order []row) (list []Fleet, missing map[string]int) {
	list, missing = make([]Fleet, len(order)), map[string]int{}
	for n, r := range order {
		if f, version := k.rows.Get(r.id); version == r.version {
			list[n] = f
		} else {
			missing[r.id] = n
		}
	}
	return list, missing
}
