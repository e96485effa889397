package gateway

import (
	"context"
	"errors"
	"fmt"

	"dstack/internal/api"
	"dstack/internal/project"
	"dstack/internal/store"
)

// Shareable finds the gateways of a project that shall be exported.
func (s *Service) Shareable(ctx context.Context, q store.Querier, p project.Project, names []string) ([]string, error) {
	var ids, missing []string
	for _, name := range names {
		g, err := get(ctx, q, "project_id = $1 AND name = $2", p.ID, name)
		if errors.Is(err, store.ErrNotFound) {
			missing = append(missing, name)
			continue
		}
		if err != nil {
			return nil, err
		}
		ids = append(ids, g.ID)
	}
	if missing != nil {
		return nil, api.NotExists("Gateways %s not found in project '%s'", api.List(missing), p.Name)
	}
	return ids, nil
}

// Lost is told that a project may not use a gateway of another any more: it is its default no
// longer.
func (s *Service) Lost(ctx context.Context, tx *store.Tx, projectID, gatewayID string) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM gateway_default WHERE project_id = $1 AND gateway_id = $2`, projectID, gatewayID)
	if err != nil {
		return fmt.Errorf("unset a default gateway: %w", err)
	}
	return nil
}
