package run

import (
	"context"
	"slices"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/jobspec"
	"dstack/internal/project"
)

// publishable refuses services that this server cannot publish as they ask.
func (s *Service) publishable(ctx context.Context, sc project.Scope, sv *config.Service) error {
	gateways, err := s.Gateways(ctx, sc)
	if err != nil {
		return err
	}
	return checkService(sc.Project.Name, sv, gateways, s.ForbidBare)
}

// checkService is the rules for that (lifecycle 14.4).
func checkService(projectName string, sv *config.Service, gateways []api.Gateway, forbidBare bool) error {
	if err := checkGateway(projectName, sv.Gateway, gateways); err != nil {
		return err
	}
	switch {
	case forbidBare:
		return api.Invalid("This dstack-server installation forbids services without a gateway. Please configure a gateway.")
	case sv.HTTPS != nil && !sv.HTTPS.Enabled && !sv.HTTPS.Auto:
		return api.Invalid("Setting `https: False` is not allowed without a gateway. Please configure a gateway or remove the `https` property from the service configuration")
	case len(sv.RateLimits) > 0:
		return api.Invalid("Rate limits are not supported when running services without a gateway. Please configure a gateway or remove `rate_limits` from the service configuration")
	}
	if err := checkModel(sv.Model); err != nil {
		return err
	}
	total := 0
	for _, g := range jobspec.Groups(config.AnyRun{Service: sv}) {
		if g.Max > jobspec.MaxNodes-total {
			return api.Invalid("A service cannot have more than %d replicas", jobspec.MaxNodes)
		}
		total += g.Max
	}
	return nil
}

// checkGateway refuses the gateway that a service asks for, or would get: none runs yet.
func checkGateway(projectName string, ref *config.GatewayRef, gateways []api.Gateway) error {
	is := func(g api.Gateway) bool { return g.Default }
	switch {
	case ref == nil:
	case ref.Ref != nil:
		is = func(g api.Gateway) bool {
			return g.Name == ref.Ref.Name && (ref.Ref.Project == nil && g.ProjectName == projectName || ref.Ref.Project != nil && g.ProjectName == *ref.Ref.Project)
		}
	case !ref.Enabled:
		return nil
	}
	switch found := slices.ContainsFunc(gateways, is); {
	case found:
		return api.Invalid("Gateway status is not running")
	case ref == nil:
		return nil
	case ref.Ref != nil:
		return api.NotExists("Gateway %s does not exist in project %s", ref.Ref.String(), projectName)
	}
	return api.NotExists("The service requires a gateway, but there is no default gateway in the project")
}
