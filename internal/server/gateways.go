package server

import (
	"net/http"

	"dstack/internal/api"
	"dstack/internal/config"
)

// upgradeGateway gives a configuration of an old client the meaning that it had there: before
// 0.21.1, false was written for what is null now.
func upgradeGateway(h http.Header, c *config.Gateway) {
	if v, known := clientVersion(h); known && v.before(0, 21, 1) && c.Default != nil && !*c.Default {
		c.Default = nil
	}
}

func planGateway(s *Server, c caller, w http.ResponseWriter, r *http.Request) error {
	var in api.GetGatewayPlanRequest
	if err := decode(w, r, &in); err != nil {
		return err
	}
	upgradeGateway(r.Header, &in.Spec.Configuration)
	plan, err := s.gateways.Plan(r.Context(), c.Scope, in)
	if err != nil {
		return err
	}
	return reply(w, r, plan)
}

func applyGateway(s *Server, c caller, w http.ResponseWriter, r *http.Request) error {
	var in api.ApplyGatewayPlanRequest
	if err := decode(w, r, &in); err != nil {
		return err
	}
	upgradeGateway(r.Header, &in.Plan.Spec.Configuration)
	g, err := s.gateways.Apply(r.Context(), c.Scope, in)
	if err != nil {
		return err
	}
	return reply(w, r, g)
}

func createGateway(s *Server, c caller, w http.ResponseWriter, r *http.Request) error {
	var in api.CreateGatewayRequest
	if err := decode(w, r, &in); err != nil {
		return err
	}
	upgradeGateway(r.Header, &in.Configuration)
	g, err := s.gateways.Create(r.Context(), c.Scope, in)
	if err != nil {
		return err
	}
	return reply(w, r, g)
}
