package fleet

import (
	"context"
	"errors"

	"dstack/internal/api"
	"dstack/internal/export"
	"dstack/internal/instance"
	"dstack/internal/project"
	"dstack/internal/store"
)

// Usable lists the active fleets that a project's runs can use: its own fleets first, oldest
// first, then those that it imports. The instances are those of [instance.Service.InFleets].
func (s *Service) Usable(ctx context.Context, q store.Querier, projectID string) ([]Fleet, map[string][]*instance.Instance, error) {
	fleets, err := s.Active(ctx, q, projectID)
	if err != nil {
		return nil, nil, err
	}
	imported, err := s.imported(ctx, q, "NOT deleted AND status = 'active' AND", projectID)
	if err != nil {
		return nil, nil, err
	}
	fleets = append(fleets, intact(imported)...)
	ids := make([]string, len(fleets))
	for i, f := range fleets {
		ids[i] = f.ID
	}
	instances, err := s.Instances().InFleets(ctx, q, ids...)
	return fleets, instances, err
}

// imported lists the fleets of others that projects use, oldest first. cond begins the
// condition of the table.
func (s *Service) imported(ctx context.Context, q store.Querier, cond string, projectIDs ...string) ([]Fleet, error) {
	ids, err := export.Imported(ctx, q, export.Fleets, projectIDs...)
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	return s.known.list(ctx, q, "WHERE "+cond+" id IN ("+store.Marks(1, len(ids))+") ORDER BY created_at, id", store.Args(ids)...)
}

// Shareable finds the fleets of a project that shall be exported: SSH fleets only.
func (s *Service) Shareable(ctx context.Context, q store.Querier, p project.Project, names []string) ([]string, error) {
	var ids, missing, clouds []string
	for _, name := range names {
		f, err := get(ctx, q, "NOT deleted AND project_id = $1 AND name = $2", p.ID, name)
		if errors.Is(err, store.ErrNotFound) {
			missing = append(missing, name)
			continue
		}
		if err != nil {
			return nil, err
		}
		if !f.SSH() {
			clouds = append(clouds, name)
		}
		ids = append(ids, f.ID)
	}
	switch {
	case missing != nil:
		return nil, api.NotExists("Fleets %s not found in project '%s'", api.List(missing), p.Name)
	case clouds != nil:
		return nil, api.Invalid("Fleets %s are cloud fleets. Can only export SSH fleets", api.List(clouds))
	}
	return ids, nil
}

// Busy names the fleets that forbid deleting a project, "" when there are none.
func (s *Service) Busy(ctx context.Context, q store.Querier, projectID string) (string, error) {
	fleets, err := query(ctx, q, "WHERE NOT deleted AND project_id = $1 ORDER BY name LIMIT 100", projectID)
	if err != nil || len(fleets) == 0 {
		return "", err
	}
	names := make([]string, len(fleets))
	for i, f := range fleets {
		names[i] = f.Name
	}
	return "Failed to delete project with active fleets: " + api.List(names), nil
}
