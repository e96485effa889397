package gateway

import (
	"context"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/project"
)

// maxReplicas bounds the machines of one gateway.
const maxReplicas = 9

// check refuses what no gateway of the project can be (http-api 10.4).
func (s *Service) check(ctx context.Context, p project.Project, c config.Gateway) error {
	if c.Name != nil {
		if err := config.CheckName(*c.Name); err != nil {
			return api.Invalid("%v", err)
		}
	}
	if err := checkDomain(c.Domain); err != nil {
		return err
	}
	if err := checkCertificate(c); err != nil {
		return err
	}
	if c.Replicas != nil && *c.Replicas > maxReplicas {
		return api.Invalid("Cannot provision %d gateway replicas. This server allows at most %d", *c.Replicas, maxReplicas)
	}
	return s.Backends(ctx, p, c.Backend)
}

func checkCertificate(c config.Gateway) error {
	kind := ""
	if c.Certificate != nil {
		kind = c.Certificate.Type
	}
	switch {
	case kind == "acm" && c.Backend != "aws":
		return api.Invalid("acm certificate type is supported for aws backend only")
	case kind == "gcp-cm" && c.Backend != "gcp":
		return api.Invalid("gcp-cm certificate type is supported for gcp backend only")
	case kind == "lets-encrypt" && !c.PublicIP:
		return api.Invalid("lets-encrypt certificate type is not supported for private gateways")
	case kind == "lets-encrypt" && c.Replicas != nil && *c.Replicas > 1:
		return api.Invalid("lets-encrypt certificate type is not supported for gateways with more than one replica")
	case c.LoadBalancer != nil && c.LoadBalancer.Type == "alb" && c.Backend != "aws":
		return api.Invalid("alb load balancer type is supported for aws backend only")
	}
	return nil
}

// checkDomain takes a domain in which ${{ run.project_name }} may stand.
func checkDomain(domain *string) error {
	if domain == nil {
		return nil
	}
	text, err := config.Interpolate(*domain, map[string]map[string]string{"run": {"project_name": "project"}})
	if err != nil {
		return api.Invalid("Cannot interpolate gateway domain name: %v", err)
	}
	if len(text) > 253 {
		return api.Invalid("The domain of a gateway has at most 253 characters")
	}
	return nil
}
