package server

import (
	"context"

	"dstack/internal/api"
	"dstack/internal/export"
	"dstack/internal/project"
)

// visible says whether the caller may see an object of the project. Members may; visitors may
// see what a project of theirs imports, and learn of nothing else.
func (s *Server) visible(ctx context.Context, sc project.Scope, objectID string, err error) error {
	if sc.User.Admin() || sc.Role != "" {
		return err
	}
	if api.IsNotExists(err) {
		return api.Forbidden()
	}
	if err != nil {
		return err
	}
	ok, err := export.ReadableBy(ctx, s.db.Read(), sc.User.ID, objectID)
	if err == nil && !ok {
		err = api.Forbidden()
	}
	return err
}

func (s *Server) getFleet(ctx context.Context, sc project.Scope, r api.GetFleetRequest) (api.Fleet, error) {
	f, err := s.fleets.Get(ctx, sc, r)
	if err := s.visible(ctx, sc, f.ID, err); err != nil {
		return api.Fleet{}, err
	}
	err = s.costs.Fleet(ctx, sc.Project.ID, &f)
	return f, err
}

func (s *Server) getInstance(ctx context.Context, sc project.Scope, r api.GetInstanceRequest) (api.Instance, error) {
	inst, err := s.fleets.GetInstance(ctx, sc, r)
	fleet := ""
	if inst.FleetID != nil {
		fleet = *inst.FleetID
	}
	if err := s.visible(ctx, sc, fleet, err); err != nil {
		return api.Instance{}, err
	}
	err = s.costs.Instance(ctx, &inst)
	return inst, err
}

func (s *Server) getRun(ctx context.Context, sc project.Scope, r api.GetRunRequest) (api.Run, error) {
	run, err := s.runs.Get(ctx, sc, r)
	if err != nil {
		return api.Run{}, err
	}
	err = s.costs.Run(ctx, &run)
	return run, err
}

func (s *Server) getGateway(ctx context.Context, sc project.Scope, r api.NameRequest) (api.Gateway, error) {
	g, err := s.gateways.Get(ctx, sc, r)
	if sc.Project.IsPublic {
		return g, err
	}
	if err := s.visible(ctx, sc, g.ID, err); err != nil {
		return api.Gateway{}, err
	}
	return g, nil
}
