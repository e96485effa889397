package gateway

import (
	"context"
	"errors"
	"strings"

	"dstack/internal/api"
	"dstack/internal/export"
	"dstack/internal/project"
	"dstack/internal/store"
)

// SetDefault makes a gateway of the project, or one that it imports, the project's default.
func (s *Service) SetDefault(ctx context.Context, sc project.Scope, r api.SetDefaultGatewayRequest) (*struct{}, error) {
	return nil, s.DB.Write(ctx, func(tx *store.Tx) error {
		owner := sc.Project
		if r.GatewayProject != nil && !strings.EqualFold(*r.GatewayProject, sc.Project.Name) {
			p, err := s.Projects.ByName(ctx, tx, *r.GatewayProject)
			if errors.Is(err, store.ErrNotFound) {
				return api.NotExists("")
			}
			if err != nil {
				return err
			}
			owner = p
		}
		g, err := s.find(ctx, tx, owner.ID, r.Name)
		if err != nil {
			return err
		}
		if owner.ID != sc.Project.ID {
			usable, err := export.Uses(ctx, tx, sc.Project.ID, g.ID)
			if err != nil {
				return err
			}
			if !usable {
				return api.NotExists("")
			}
		}
		return s.setDefault(ctx, tx, sc, g, true)
	})
}

// setDefault makes g the default of the project, or no longer.
func (s *Service) setDefault(ctx context.Context, tx *store.Tx, sc project.Scope, g Gateway, on bool) error {
	was, err := defaultOf(ctx, tx, sc.Project.ID)
	if err != nil || was == g.ID && on || was != g.ID && !on {
		return err
	}
	if was != "" {
		old, err := get(ctx, tx, "id = $1", was)
		if err != nil {
			return err
		}
		if err := storeDefault(ctx, tx, sc.Project.ID, ""); err != nil {
			return err
		}
		if err := record(ctx, tx, sc, old, "Gateway unset as project default"); err != nil {
			return err
		}
	}
	if !on {
		return nil
	}
	if err := storeDefault(ctx, tx, sc.Project.ID, g.ID); err != nil {
		return err
	}
	return record(ctx, tx, sc, g, "Gateway set as project default")
}

// SetWildcardDomain changes the domain of a gateway.
func (s *Service) SetWildcardDomain(ctx context.Context, sc project.Scope, r api.SetWildcardDomainRequest) (api.Gateway, error) {
	if err := checkDomain(r.WildcardDomain); err != nil {
		return api.Gateway{}, err
	}
	var g Gateway
	err := s.DB.Write(ctx, func(tx *store.Tx) (err error) {
		if g, err = s.find(ctx, tx, sc.Project.ID, r.Name); err != nil {
			return err
		}
		g.Data.Configuration.Domain = r.WildcardDomain
		if err := update(ctx, tx, &g); err != nil {
			return err
		}
		return record(ctx, tx, sc, g, "Gateway updated. Changed fields: domain")
	})
	if err != nil {
		return api.Gateway{}, err
	}
	return s.view(ctx, sc.Project, g)
}
