package gateway

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"dstack/internal/export"
	"dstack/internal/store"
)

const columns = `id, project_id, name, status, created_at, ` + store.Version + ` AS version, data`

const insertGateway = `INSERT INTO gateway (id, project_id, name, status, created_at, data) VALUES ($1, $2, $3, $4, $5, $6)`

const updateGateway = `UPDATE gateway SET status = $1, data = coalesce($2, data), version = ` + store.NextVersion + ` WHERE id = $3 AND ` + store.Version + ` = $4`

func scan(row interface{ Scan(...any) error }) (Gateway, error) {
	var g Gateway
	var at int64
	err := g.whole(store.Scan(row, &g.ID, &g.ProjectID, &g.Name, &g.Status, &at, &g.Version, store.JSON(&g.Data)))
	if errors.Is(err, sql.ErrNoRows) {
		return Gateway{}, store.ErrNotFound
	}
	if err != nil {
		return Gateway{}, fmt.Errorf("read a gateway: %w", err)
	}
	g.CreatedAt = store.Time(at)
	return g, nil
}

func get(ctx context.Context, q store.Querier, where string, args ...any) (Gateway, error) {
	return scan(q.QueryRowContext(ctx, "SELECT "+columns+" FROM gateway WHERE "+where, args...))
}

func query(ctx context.Context, q store.Querier, tail string, args ...any) ([]Gateway, error) {
	var list []Gateway
	rows, err := q.QueryContext(ctx, "SELECT "+columns+" FROM gateway "+tail, args...)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		g, err := scan(rows)
		list = append(list, g)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list gateways: %w", err)
	}
	return list, nil
}

// imported lists the gateways of others that a project uses.
func imported(ctx context.Context, q store.Querier, projectID string) ([]Gateway, error) {
	ids, err := export.Imported(ctx, q, export.Gateways, projectID)
	if err != nil {
		return nil, err
	}
	var list []Gateway
	for _, id := range ids {
		g, err := get(ctx, q, "id = $1", id)
		if errors.Is(err, store.ErrNotFound) { // deleted since
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, g)
	}
	return list, nil
}

func insert(ctx context.Context, tx *store.Tx, g *Gateway) error {
	_, err := tx.ExecContext(ctx, insertGateway, g.ID, g.ProjectID, g.Name, g.Status, store.Micros(g.CreatedAt), store.JSON(&g.Data))
	if err != nil {
		return fmt.Errorf("store gateway %s: %w", g.Name, err)
	}
	return nil
}

func update(ctx context.Context, tx *store.Tx, g *Gateway) error {
	var data any = store.JSON(&g.Data)
	if g.Damage != "" {
		data = nil // somebody may mend what is there
	}
	if err := store.Guarded(tx.ExecContext(ctx, updateGateway, g.Status, data, g.ID, g.Version)); err != nil {
		return fmt.Errorf("store gateway %s: %w", g.Name, err)
	}
	g.Version++
	return nil
}

// remove deletes a gateway, also as anybody's default.
func remove(ctx context.Context, tx *store.Tx, g Gateway) error {
	for _, text := range []string{`DELETE FROM gateway_default WHERE gateway_id = $1`, `DELETE FROM gateway WHERE id = $1`} {
		if _, err := tx.ExecContext(ctx, text, g.ID); err != nil {
			return fmt.Errorf("delete gateway %s: %w", g.Name, err)
		}
	}
	return nil
}

// defaultOf is the id of a project's default gateway, "" for none.
func defaultOf(ctx context.Context, q store.Querier, projectID string) (string, error) {
	var id string
	err := q.QueryRowContext(ctx, `SELECT gateway_id FROM gateway_default WHERE project_id = $1`, projectID).Scan(&id)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read a project's default gateway: %w", err)
	}
	return id, nil
}

// storeDefault sets a project's default gateway, "" for none.
func storeDefault(ctx context.Context, tx *store.Tx, projectID, gatewayID string) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM gateway_default WHERE project_id = $1`, projectID)
	if err == nil && gatewayID != "" {
		_, err = tx.ExecContext(ctx, `INSERT INTO gateway_default (project_id, gateway_id) VALUES ($1, $2)`, projectID, gatewayID)
	}
	if err != nil {
		return fmt.Errorf("store a project's default gateway: %w", err)
	}
	return nil
}

// named says that a gateway of a project has a name.
func named(ctx context.Context, q store.Querier, projectID, name string) (bool, error) {
	var n int
	err := q.QueryRowContext(ctx, `SELECT count(*) FROM gateway WHERE project_id = $1 AND name = $2`, projectID, name).Scan(&n)
	return n > 0, err
}
