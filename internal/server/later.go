package server

import (
	"context"
	"fmt"
	"net/http"
	"slices"

	"dstack/internal/api"
	"dstack/internal/project"
	"dstack/internal/user"
)

// Objects that this server cannot make yet. They are answered as by a server on which none
// exists: lists are empty, names are unknown, and making one is refused in words.

type namesRequest struct {
	Names []string `json:"names" cfg:"req"`
}

type nameRequest struct {
	Name string `json:"name" cfg:"req"`
}

// ignoreNames deletes nothing: unknown names are not an error.
func ignoreNames(context.Context, project.Scope, namesRequest) (*struct{}, error) { return nil, nil }

// noSuch knows no name.
func noSuch(context.Context, project.Scope, nameRequest) (*struct{}, error) {
	return nil, api.NotExists("")
}

type listVolumesRequest struct {
	ProjectName   *string   `json:"project_name"`
	OnlyActive    bool      `json:"only_active"`
	PrevCreatedAt *api.Time `json:"prev_created_at"`
	PrevID        *string   `json:"prev_id" cfg:"uuid"`
	Limit         *int      `json:"limit" cfg:"min=0,max=100"`
	Ascending     bool      `json:"ascending"`
}

func noVolumes(context.Context, user.User, listVolumesRequest) ([]struct{}, error) {
	return []struct{}{}, nil
}

type listGatewaysRequest struct {
	IncludeImported bool `json:"include_imported"`
}

// Optional says that the request may be sent without a body.
func (*listGatewaysRequest) Optional() {}

func noGateways(context.Context, project.Scope, listGatewaysRequest) ([]struct{}, error) {
	return []struct{}{}, nil
}

type defaultGatewayRequest struct {
	Name           string  `json:"name" cfg:"req"`
	GatewayProject *string `json:"gateway_project"`
}

func noDefaultGateway(context.Context, project.Scope, defaultGatewayRequest) (*struct{}, error) {
	return nil, api.NotExists("")
}

type gatewayDomainRequest struct {
	Name           string  `json:"name" cfg:"req"`
	WildcardDomain *string `json:"wildcard_domain" cfg:"req"`
}

func noGatewayDomain(context.Context, project.Scope, gatewayDomainRequest) (*struct{}, error) {
	return nil, api.NotExists("")
}

// sshUpstream serves SSH proxies, which prove themselves with a token of their own. There is
// none to configure yet, so nobody can.
func sshUpstream(*Server, caller, http.ResponseWriter, *http.Request) error { return api.Forbidden() }

// unsupported refuses to make something.
func unsupported(what string) func(context.Context, project.Scope, map[string]any) (*struct{}, error) {
	return func(context.Context, project.Scope, map[string]any) (*struct{}, error) {
		return nil, api.Invalid("This dstack server does not support %s yet.", what)
	}
}

// unsupportedList is the same for requests without a body.
func unsupportedList(what string) func(context.Context, project.Scope, struct{}) (*struct{}, error) {
	return func(context.Context, project.Scope, struct{}) (*struct{}, error) {
		return nil, api.Invalid("This dstack server does not support %s yet.", what)
	}
}

// healthChecks returns what is known of an instance's accelerators.
func (s *Server) healthChecks(ctx context.Context, sc project.Scope, r api.HealthChecksRequest) (api.HealthChecks, error) {
	out := api.HealthChecks{HealthChecks: []api.HealthCheck{}}
	inst, err := s.fleets.FindInstance(ctx, sc.Project.ID, r.FleetName, r.InstanceNum)
	if err != nil {
		return out, err
	}
	limit := 100
	if r.Limit != nil {
		limit = *r.Limit
	}
	list, err := s.metrics.HealthChecks(ctx, s.db.Read(), inst.ID, span(r.After, r.Before), limit)
	if err != nil {
		return out, fmt.Errorf("read health checks: %w", err)
	}
	for _, h := range list {
		check := api.HealthCheck{CollectedAt: api.At(h.At), Status: api.HealthStatus(h.Status), Events: []api.HealthEvent{}}
		if h.Message != "" {
			check.Events = append(check.Events, api.HealthEvent{Timestamp: check.CollectedAt, Status: check.Status, Message: h.Message})
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
