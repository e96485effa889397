package server

import (
	"context"
	"fmt"
	"slices"

	"dstack/internal/api"
	"dstack/internal/metrics"
	"dstack/internal/project"
	"dstack/internal/user"
)

// healthChecks returns what is known of an instance's accelerators.
func (s *Server) healthChecks(ctx context.Context, sc project.Scope, r api.HealthChecksRequest) (api.HealthChecks, error) {
	out := api.HealthChecks{HealthChecks: []api.HealthCheck{}}
	inst, err := s.fleets.FindInstance(ctx, sc.Project.ID, r.FleetName, r.InstanceNum)
	if err != nil {
		return out, err
	}
	limit := 100
	if r.Limit != nil {
		limit = min(*r.Limit, maxSamples)
	}
	list, err := s.metrics.HealthChecks(ctx, s.db.Read(), inst.ID, span(r.After, r.Before), limit)
	if err != nil {
		return out, fmt.Errorf("read health checks: %w", err)
	}
	for _, h := range list {
		check := api.HealthCheck{CollectedAt: api.At(h.At), Status: metrics.Status(h.OverallHealth), Events: []api.HealthEvent{}}
		for _, i := range h.Incidents {
			check.Events = append(check.Events, api.HealthEvent{Timestamp: check.CollectedAt, Status: metrics.Status(i.Health), Message: i.ErrorMessage})
		}
		out.HealthChecks = append(out.HealthChecks, check)
	}
	return out, nil
}

// projectsWithoutFleets lists the projects of the caller in which nothing can run yet.
func (s *Server) projectsWithoutFleets(ctx context.Context, u user.User, _ struct{}) ([]api.Project, error) {
	list, err := s.projects.List(ctx, u, api.ListProjectsRequest{Username: &u.Name, Ascending: true})
	if err != nil {
		return nil, err
	}
	all, ok := list.([]api.Project)
	if !ok {
		return nil, fmt.Errorf("list projects: unexpected %T", list)
	}
	used, err := s.fleets.ProjectsWithFleets(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(p api.Project) bool { return used[p.ProjectID] }), nil
}
