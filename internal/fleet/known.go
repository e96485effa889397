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

// list reads what follows FROM fleet.
func (k *known) list(ctx context.Context, q store.Querier, tail string, args ...any) ([]Fleet, error) {
	var list []Fleet
	missing := map[string]int{} // where in the list
	select {
	case k.reading <- struct{}{}:
		defer func() { <-k.reading }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	rows, err := q.QueryContext(ctx, "SELECT id, "+store.Version+" FROM fleet "+tail, args...)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var id string
		var version int64
		err := rows.Scan(&id, &version)
		f, known := k.rows.Get(id)
		if known != version {
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
