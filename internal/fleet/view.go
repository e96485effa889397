package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"dstack/internal/api"
	"dstack/internal/encoded"
	"dstack/internal/event"
	"dstack/internal/instance"
	"dstack/internal/project"
	"dstack/internal/store"
	"dstack/internal/user"
)

// view is the fleet as the wire has it.
func (s *Service) view(ctx context.Context, f Fleet) (api.Fleet, error) {
	parts, err := s.parts(ctx, []Fleet{f})
	if err != nil {
		return api.Fleet{}, err
	}
	p := parts[0]
	v := p.render()
	for _, i := range p.instances {
		v.Instances = append(v.Instances, instance.View(i, p.project, f.Name))
	}
	return v, nil
}

// parts are what the wire shows of a fleet.
type parts struct {
	Fleet
	project   string // name
	instances []*instance.Instance
}

func (s *Service) parts(ctx context.Context, fleets []Fleet) ([]parts, error) {
	ids := make([]string, len(fleets))
	for i, f := range fleets {
		ids[i] = f.ID
	}
	instances, err := s.Instances().InFleets(ctx, s.DB.Read(), ids...)
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	out := make([]parts, len(fleets))
	for i, f := range fleets {
		if names[f.ProjectID] == "" {
			p, err := s.Projects.ByID(ctx, s.DB.Read(), f.ProjectID)
			if err != nil {
				return nil, err
			}
			names[f.ProjectID] = p.Name
		}
		out[i] = parts{f, names[f.ProjectID], instances[f.ID]}
	}
	return out, nil
}

// render is all but the instances.
func (p *parts) render() api.Fleet {
	v := api.Fleet{ID: p.ID, Name: p.Name, ProjectName: p.project, Spec: p.Spec, CreatedAt: api.At(p.CreatedAt), Status: p.Status.Shown(), Instances: []api.Instance{}}
	if text := p.problems(); text != "" {
		v.StatusMessage = &text
	}
	return v
}

// problems tells what is wrong with instances, a line each.
func (p *parts) problems() string {
	var list []string
	if p.Damage != "" {
		list = append(list, p.Damage)
	}
	for _, i := range p.instances {
		if i.Data.Problem != "" {
			list = append(list, i.Name+": "+i.Data.Problem)
		}
		if text := i.Lack(); text != "" {
			list = append(list, i.Name+": "+text)
		}
	}
	return strings.Join(list, "\n")
}

// ListProject returns a project's fleets, newest first, and those of others that it uses.
func (s *Service) ListProject(ctx context.Context, sc project.Scope, r api.ListProjectFleetsRequest) (encoded.JSON[[]api.Fleet], error) {
	fleets, err := s.known.list(ctx, s.DB.Read(), "WHERE NOT deleted AND project_id = $1 ORDER BY created_at DESC, id", sc.Project.ID)
	if err != nil {
		return nil, err
	}
	if r.IncludeImported {
		imported, err := s.imported(ctx, s.DB.Read(), "NOT deleted AND", sc.Project.ID)
		if err != nil {
			return nil, err
		}
		fleets = append(fleets, imported...)
		slices.SortStableFunc(fleets, func(a, b Fleet) int { return b.CreatedAt.Compare(a.CreatedAt) })
	}
	return s.listed(ctx, fleets)
}

// List returns the fleets that a user may see.
func (s *Service) List(ctx context.Context, u user.User, r api.ListFleetsRequest) (encoded.JSON[[]api.Fleet], error) {
	projects, err := s.Projects.Of(ctx, u)
	if err != nil {
		return nil, err
	}
	var asked, shared []string
	for id, p := range projects {
		if r.ProjectName == nil || p.Name == *r.ProjectName {
			asked = append(asked, id)
		}
	}
	if asked == nil {
		return encoded.List[api.Fleet](nil), nil
	}
	if r.IncludeImported {
		imported, err := s.imported(ctx, s.DB.Read(), "", asked...)
		if err != nil {
			return nil, err
		}
		for _, f := range imported {
			shared = append(shared, f.ID)
		}
	}
	tail, args := page(r, asked, shared)
	fleets, err := s.known.list(ctx, s.DB.Read(), tail, args...)
	if err != nil {
		return nil, err
	}
	return s.listed(ctx, fleets)
}

// page is what follows FROM fleet for a page of the fleets of some projects and of others that they share,
// newest first unless asked otherwise. Fleets are never forgotten, so that all of them are too many to read.
func page(r api.ListFleetsRequest, projects, shared []string) (tail string, args []any) {
	arg := func(values ...any) string {
		args = append(args, values...)
		return store.Marks(len(args)-len(values)+1, len(values))
	}
	conds := []string{"project_id IN (" + arg(store.Args(projects)...) + ")"}
	if len(shared) > 0 {
		conds[0] = "(" + conds[0] + " OR id IN (" + arg(store.Args(shared)...) + "))"
	}
	if r.OnlyActive {
		conds = append(conds, "NOT deleted")
	}
	order, cmp, tie := "created_at DESC, id", "<", ">" // ids run the other way
	if r.Ascending {
		order, cmp, tie = "created_at, id DESC", ">", "<"
	}
	if r.PrevCreatedAt != nil {
		at := arg(store.Micros(r.PrevCreatedAt.Time))
		after := "created_at " + cmp + " " + at
		if r.PrevID != nil {
			after = fmt.Sprintf("(%s OR created_at = %s AND id %s %s)", after, at, tie, arg(*r.PrevID))
		}
		conds = append(conds, after)
	}
	limit := 100
	if r.Limit != nil {
		limit = *r.Limit
	}
	return fmt.Sprintf("WHERE %s ORDER BY %s LIMIT %d", strings.Join(conds, " AND "), order, limit), args
}

// Get returns one fleet.
func (s *Service) Get(ctx context.Context, sc project.Scope, r api.GetFleetRequest) (api.Fleet, error) {
	var f Fleet
	var err error
	switch {
	case r.ID != nil:
		f, err = get(ctx, s.DB.Read(), "project_id = $1 AND id = $2", sc.Project.ID, *r.ID)
	case r.Name != nil:
		f, err = get(ctx, s.DB.Read(), "NOT deleted AND project_id = $1 AND name = $2", sc.Project.ID, *r.Name)
	default:
		return api.Fleet{}, api.Invalid("name or id must be specified")
	}
	if errors.Is(err, store.ErrNotFound) {
		return api.Fleet{}, api.NotExists("")
	}
	if err != nil {
		return api.Fleet{}, err
	}
	return s.view(ctx, f)
}

// Delete ends fleets that nothing uses; unknown names are ignored.
func (s *Service) Delete(ctx context.Context, sc project.Scope, r api.DeleteFleetsRequest) (*struct{}, error) {
	for _, name := range r.Names {
		if err := s.remove(ctx, sc, name, nil); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// DeleteInstances ends single instances of a fleet.
func (s *Service) DeleteInstances(ctx context.Context, sc project.Scope, r api.DeleteFleetInstancesRequest) (*struct{}, error) {
	return nil, s.remove(ctx, sc, r.Name, r.InstanceNums)
}

// remove ends a fleet, or the instances with the numbers.
func (s *Service) remove(ctx context.Context, sc project.Scope, name string, nums []int) error {
	return s.DB.Write(ctx, func(tx *store.Tx) error {
		f, err := get(ctx, tx, "NOT deleted AND project_id = $1 AND name = $2", sc.Project.ID, name)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if f.SSH() && !s.Projects.CanManageSSHFleets(sc) {
			return api.Forbidden()
		}
		list, err := instance.OfFleets(ctx, tx, f.ID)
		if err != nil {
			return err
		}
		for _, inst := range list {
			if nums != nil && !has(nums, inst.Num) {
				continue
			}
			if inst.Busy() > 0 && nums == nil {
				return api.Invalid("Failed to delete fleet %s. Fleet is in use.", name)
			}
			if inst.Busy() > 0 {
				return api.Invalid("Failed to delete fleet %s instances %s. Fleet instances are in use.", name, fmt.Sprint(nums))
			}
			if err := s.Instances().Terminate(ctx, tx, inst, api.InstanceTerminatedByUser, ""); err != nil {
				return err
			}
		}
		if nums != nil || f.Status == api.FleetTerminating {
			return nil
		}
		f.Status = api.FleetTerminating
		if err := s.update(ctx, tx, &f); err != nil {
			return err
		}
		tx.OnCommit(func() { s.Engine.Wake(Kind, f.ID) })
		return s.record(ctx, tx, f, sc.Actor(event.Event{Message: "Fleet status changed ACTIVE -> TERMINATING"}))
	})
}

func has(list []int, n int) bool {
	for _, v := range list {
		if v == n {
			return true
		}
	}
	return false
}
