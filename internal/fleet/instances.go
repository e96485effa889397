package fleet

import (
	"context"
	"database/sql"
	"fmt"
	"slices"

	"dstack/internal/api"
	"dstack/internal/encoded"
	"dstack/internal/instance"
	"dstack/internal/project"
	"dstack/internal/store"
	"dstack/internal/user"
)

// maxInstances is how many instances a list has at most, and when nothing is asked for.
const maxInstances = 1000

// ListInstances returns the instances of the projects that a user may see.
func (s *Service) ListInstances(ctx context.Context, u user.User, r api.ListInstancesRequest) (encoded.JSON[[]api.Instance], error) {
	projects, err := s.Projects.Of(ctx, u)
	if err != nil {
		return nil, err
	}
	var ids []string
	for id, p := range projects {
		if r.ProjectNames == nil || slices.Contains(r.ProjectNames, p.Name) {
			ids = append(ids, id)
		}
	}
	var shared []string
	names := map[string]string{}
	for id, p := range projects {
		names[id] = p.Name
	}
	if r.IncludeImported {
		imported, err := s.imported(ctx, s.DB.Read(), "", ids...)
		if err != nil {
			return nil, err
		}
		for _, f := range imported {
			shared = append(shared, f.ID)
			if names[f.ProjectID] != "" {
				continue
			}
			p, err := s.Projects.ByID(ctx, s.DB.Read(), f.ProjectID)
			if err != nil {
				return nil, err
			}
			names[p.ID] = p.Name
		}
	}
	f := instance.Filter{Projects: ids, Shared: shared, Fleets: r.FleetIDs, Active: r.OnlyActive, Ascending: r.Ascending, Limit: maxInstances}
	if r.Limit != nil {
		f.Limit = min(*r.Limit, maxInstances)
	}
	if f.Limit == 0 {
		return encoded.List[api.Instance](nil), nil
	}
	if r.PrevCreatedAt != nil {
		f.After = &instance.Cursor{At: r.PrevCreatedAt.Time}
		if r.PrevID != nil {
			f.After.ID = *r.PrevID
		}
	}
	list, err := s.Instances().List(ctx, s.DB.Read(), f)
	if err != nil {
		return nil, err
	}
	fleets, err := s.names(ctx, list)
	if err != nil {
		return nil, err
	}
	out := make([]encoded.JSON[api.Instance], len(list))
	for n, i := range list {
		if out[n], err = s.texts.instance(i, names[i.ProjectID], fleets[i.FleetID]); err != nil {
			return nil, err
		}
	}
	return encoded.List(out), nil
}

// names maps the fleets of instances to their names.
func (s *Service) names(ctx context.Context, list []*instance.Instance) (map[string]string, error) {
	names := map[string]string{}
	var ids []any
	for _, i := range list {
		if _, seen := names[i.FleetID]; !seen {
			names[i.FleetID] = ""
			ids = append(ids, i.FleetID)
		}
	}
	for batch := range slices.Chunk(ids, 500) {
		rows, err := s.DB.Read().QueryContext(ctx, "SELECT id, name FROM fleet WHERE id IN ("+store.Marks(1, len(batch))+")", batch...)
		err = store.EachRow(rows, err, func(rows *sql.Rows) error {
			var id, name string
			err := rows.Scan(&id, &name)
			names[id] = name
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read the names of fleets: %w", err)
		}
	}
	return names, nil
}

// Names are the names of projects and fleets by id.
type Names struct{ Projects, Fleets map[string]string }

// Running returns all instances that exist or come to be, with the names of what they
// belong to.
func (s *Service) Running(ctx context.Context) ([]*instance.Instance, Names, error) {
	n := Names{Projects: map[string]string{}}
	projects, err := s.Projects.All(ctx)
	if err != nil {
		return nil, n, err
	}
	ids := make([]string, len(projects))
	for i, p := range projects {
		ids[i], n.Projects[p.ID] = p.ID, p.Name
	}
	all, err := s.Instances().List(ctx, s.DB.Read(), instance.Filter{Projects: ids})
	if err != nil {
		return nil, n, err
	}
	list := slices.DeleteFunc(all, func(i *instance.Instance) bool {
		return i.Deleted || i.Status == api.InstancePending || i.Status == api.InstanceTerminated
	})
	n.Fleets, err = s.names(ctx, list)
	return list, n, err
}

// GetInstance returns one instance of a project, also one that ended.
func (s *Service) GetInstance(ctx context.Context, sc project.Scope, r api.GetInstanceRequest) (api.Instance, error) {
	inst, err := instance.Get(ctx, s.DB.Read(), r.ID)
	if err != nil || inst.ProjectID != sc.Project.ID {
		return api.Instance{}, orMissing(err)
	}
	f, err := s.ByID(ctx, s.DB.Read(), inst.FleetID)
	if err != nil {
		return api.Instance{}, err
	}
	return instance.View(&inst, sc.Project.Name, f.Name), nil
}

// FindInstance is the live instance of a fleet that has a number.
func (s *Service) FindInstance(ctx context.Context, projectID, fleetName string, num int) (instance.Instance, error) {
	f, err := get(ctx, s.DB.Read(), "NOT deleted AND project_id = $1 AND name = $2", projectID, fleetName)
	if err != nil {
		return instance.Instance{}, orMissing(err)
	}
	list, err := instance.OfFleets(ctx, s.DB.Read(), f.ID)
	for _, inst := range list {
		if inst.Num == num {
			return inst, nil
		}
	}
	return instance.Instance{}, orMissing(err)
}

// ProjectsWithFleets are the ids of the projects that have a fleet, or use one of another.
func (s *Service) ProjectsWithFleets(ctx context.Context) (map[string]bool, error) {
	rows, err := s.DB.Read().QueryContext(ctx, `
SELECT project_id FROM fleet WHERE NOT deleted
UNION SELECT i.project_id FROM import i JOIN export_item x ON x.export_id = i.export_id WHERE x.kind = 'fleet'`)
	used := map[string]bool{}
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var id string
		err := rows.Scan(&id)
		used[id] = true
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list projects with fleets: %w", err)
	}
	return used, nil
}
