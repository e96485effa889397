package volume

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"dstack/internal/api"
	"dstack/internal/engine"
	"dstack/internal/store"
)

const columns = `id, project_id, user_id, name, status, backend, intent_id, unwanted, deleted, created_at, ` + store.Version + ` AS version, data`

const insertVolume = `
INSERT INTO volume (id, project_id, user_id, name, status, backend, intent_id, created_at, shard, data)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`

const updateVolume = `
UPDATE volume SET status = $1, unwanted = $2, deleted = $3, data = coalesce($4, data), intent_id = $5, version = ` + store.NextVersion + `
WHERE  id = $6 AND ` + store.Version + ` = $7`

// selectAttachments lists who has some volumes.
const selectAttachments = `
SELECT a.volume_id, a.device, i.name, i.num, f.name FROM volume_attachment a
JOIN   instance i ON i.id = a.instance_id JOIN fleet f ON f.id = i.fleet_id
WHERE  a.volume_id IN (%s) ORDER BY a.volume_id, a.created_at, a.instance_id`

func scan(row interface{ Scan(...any) error }) (Volume, error) {
	var v Volume
	var at int64
	err := v.whole(store.Scan(row, &v.ID, &v.ProjectID, &v.UserID, &v.Name, &v.Status, &v.Backend, &v.IntentID, &v.Unwanted, &v.Deleted, &at, &v.Version, store.JSON(&v.Data)))
	if errors.Is(err, sql.ErrNoRows) {
		return Volume{}, store.ErrNotFound
	}
	if err != nil {
		return Volume{}, fmt.Errorf("read a volume: %w", err)
	}
	v.CreatedAt = store.Time(at)
	return v, nil
}

func get(ctx context.Context, q store.Querier, where string, args ...any) (Volume, error) {
	return scan(q.QueryRowContext(ctx, "SELECT "+columns+" FROM volume WHERE "+where, args...))
}

func query(ctx context.Context, q store.Querier, tail string, args ...any) ([]Volume, error) {
	var list []Volume
	rows, err := q.QueryContext(ctx, "SELECT "+columns+" FROM volume "+tail, args...)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		v, err := scan(rows)
		list = append(list, v)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	return list, nil
}

func insert(ctx context.Context, tx *store.Tx, v *Volume) error {
	_, err := tx.ExecContext(ctx, insertVolume, v.ID, v.ProjectID, v.UserID, v.Name, v.Status, v.Backend, v.IntentID, store.Micros(v.CreatedAt), engine.Shard(v.ID), store.JSON(&v.Data))
	if err != nil {
		return fmt.Errorf("store volume %s: %w", v.Name, err)
	}
	return nil
}

func update(ctx context.Context, tx *store.Tx, v *Volume) error {
	var data any = store.JSON(&v.Data)
	if v.Damage != "" {
		data = nil // somebody may mend what is there
	}
	if err := store.Guarded(tx.ExecContext(ctx, updateVolume, v.Status, v.Unwanted, v.Deleted, data, v.IntentID, v.ID, v.Version)); err != nil {
		return fmt.Errorf("store volume %s: %w", v.Name, err)
	}
	v.Version++
	return nil
}

// names are those of the first hundred volumes that exist and meet a condition.
func names(ctx context.Context, q store.Querier, cond string, args ...any) ([]string, error) {
	var list []string
	rows, err := q.QueryContext(ctx, "SELECT name FROM volume WHERE NOT deleted AND "+cond+" ORDER BY name LIMIT 100", args...)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var name string
		err := rows.Scan(&name)
		list = append(list, name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	return list, nil
}

// Names are the names of volumes, also of deleted ones, by their ids.
func Names(ctx context.Context, q store.Querier, ids []string) (map[string]string, error) {
	byID := map[string]string{}
	for batch := range slices.Chunk(ids, 500) {
		args := store.Args(batch)
		list, err := query(ctx, q, "WHERE id IN ("+store.Marks(1, len(args))+")", args...)
		if err != nil {
			return nil, err
		}
		for _, v := range list {
			byID[v.ID] = v.Name
		}
	}
	return byID, nil
}

// attached is how many instances have a volume.
func attached(ctx context.Context, q store.Querier, id string) (int, error) {
	var n int
	if err := q.QueryRowContext(ctx, `SELECT count(*) FROM volume_attachment WHERE volume_id = $1`, id).Scan(&n); err != nil {
		return 0, fmt.Errorf("count who has a volume: %w", err)
	}
	return n, nil
}

// page is what follows FROM volume for a page of the volumes of projects; pageArgs are its
// arguments.
func page(projectIDs []string, r api.ListVolumesRequest) string {
	n := len(projectIDs)
	cond := "project_id IN (" + store.Marks(1, n) + ")"
	if r.OnlyActive {
		cond += " AND NOT deleted"
	}
	cmp, order, tie, tieOrder, limit := "<", "DESC", ">", "ASC", 100
	if r.Ascending {
		cmp, order, tie, tieOrder = ">", "ASC", "<", "DESC"
	}
	if r.Limit != nil {
		limit = *r.Limit
	}
	if r.PrevCreatedAt != nil {
		after := fmt.Sprintf("created_at %s $%d", cmp, n+1)
		if r.PrevID != nil {
			after = fmt.Sprintf("(%s OR created_at = $%d AND id %s $%d)", after, n+1, tie, n+2)
		}
		cond += " AND " + after
	}
	return fmt.Sprintf("WHERE %s ORDER BY created_at %s, id %s LIMIT %d", cond, order, tieOrder, limit)
}

func pageArgs(projectIDs []string, r api.ListVolumesRequest) []any {
	var args []any
	for _, id := range projectIDs {
		args = append(args, id)
	}
	if r.PrevCreatedAt != nil {
		args = append(args, store.Micros(r.PrevCreatedAt.Time))
		if r.PrevID != nil {
			args = append(args, *r.PrevID)
		}
	}
	return args
}

// named says that a volume of a project has a name.
func named(ctx context.Context, q store.Querier, projectID, name string) (bool, error) {
	var n int
	err := q.QueryRowContext(ctx, `SELECT count(*) FROM volume WHERE NOT deleted AND project_id = $1 AND name = $2`, projectID, name).Scan(&n)
	return n > 0, err
}
