package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/fleet"
	"dstack/internal/project"
	"dstack/internal/store"
)

// Plan says what apply would do.
func (s *Service) Plan(ctx context.Context, sc project.Scope, r api.GetGatewayPlanRequest) (api.GatewayPlan, error) {
	effective := r.Spec
	plan := api.GatewayPlan{ProjectName: sc.Project.Name, User: sc.User.Name, Spec: r.Spec, EffectiveSpec: &effective, Action: api.ActionCreate}
	if err := s.check(ctx, sc.Project, effective.Configuration); err != nil {
		return plan, err
	}
	if effective.Configuration.Name == nil {
		return plan, nil
	}
	g, err := get(ctx, s.DB.Read(), "project_id = $1 AND name = $2", sc.Project.ID, *effective.Configuration.Name)
	if errors.Is(err, store.ErrNotFound) {
		return plan, nil
	}
	if err != nil {
		return plan, err
	}
	v, err := s.view(ctx, sc.Project, g)
	if err != nil {
		return plan, err
	}
	plan.CurrentResource = &v
	fields, err := changes(v.Configuration, effective.Configuration)
	if err != nil {
		return plan, err
	}
	if updatable(fields) {
		plan.Action = api.ActionUpdate
	}
	return plan, nil
}

// errChanged is the answer to a plan for what is not there any more.
var errChanged = api.Invalid("Failed to apply plan. Resource has been changed. Try again or use force apply.")

// Apply creates a gateway or changes one in place.
func (s *Service) Apply(ctx context.Context, sc project.Scope, r api.ApplyGatewayPlanRequest) (api.Gateway, error) {
	c := r.Plan.Spec.Configuration
	if err := s.check(ctx, sc.Project, c); err != nil {
		return api.Gateway{}, err
	}
	if c.Name != nil {
		g, err := get(ctx, s.DB.Read(), "project_id = $1 AND name = $2", sc.Project.ID, *c.Name)
		if err == nil {
			return s.change(ctx, sc, g, r)
		}
		if !errors.Is(err, store.ErrNotFound) {
			return api.Gateway{}, err
		}
	}
	return s.create(ctx, sc, c)
}

// Create is how clients before plans make a gateway.
func (s *Service) Create(ctx context.Context, sc project.Scope, r api.CreateGatewayRequest) (api.Gateway, error) {
	if err := s.check(ctx, sc.Project, r.Configuration); err != nil {
		return api.Gateway{}, err
	}
	return s.create(ctx, sc, r.Configuration)
}

func (s *Service) create(ctx context.Context, sc project.Scope, c config.Gateway) (api.Gateway, error) {
	if c.Name == nil {
		free, err := fleet.FreeName(func(name string) (bool, error) { return named(ctx, s.DB.Read(), sc.Project.ID, name) })
		if err != nil {
			return api.Gateway{}, err
		}
		c.Name = &free
	}
	name, wanted := *c.Name, c.Default
	c.Default = nil // who is the default is stored elsewhere
	g := Gateway{ID: uuid.NewString(), ProjectID: sc.Project.ID, Name: name, Status: api.GatewaySubmitted, CreatedAt: time.Now(), Version: 1, Data: Data{Configuration: c}}
	err := s.DB.Write(ctx, func(tx *store.Tx) error {
		if err := insert(ctx, tx, &g); err != nil {
			return err
		}
		if err := record(ctx, tx, sc, g, "Gateway created. Status: SUBMITTED"); err != nil {
			return err
		}
		def, err := defaultOf(ctx, tx, sc.Project.ID)
		if err != nil {
			return err
		}
		if wanted != nil && *wanted || wanted == nil && def == "" {
			return s.setDefault(ctx, tx, sc, g, true)
		}
		return nil
	})
	if store.Constraint(err) == "gateway_project_id_name_key" {
		return api.Gateway{}, api.Exists("")
	}
	if err != nil {
		return api.Gateway{}, err
	}
	return s.view(ctx, sc.Project, g)
}

// change updates a gateway in place.
func (s *Service) change(ctx context.Context, sc project.Scope, g Gateway, r api.ApplyGatewayPlanRequest) (api.Gateway, error) {
	old, err := s.view(ctx, sc.Project, g)
	if err != nil {
		return api.Gateway{}, err
	}
	c := r.Plan.Spec.Configuration
	if !r.Force && !seen(old, r.Plan.CurrentResource) {
		return api.Gateway{}, errChanged
	}
	if g.Status == api.GatewayFailed {
		return api.Gateway{}, api.Invalid("Gateway '%s' is in FAILED status and cannot be updated in-place. Delete it and re-apply.", g.Name)
	}
	fields, err := changes(old.Configuration, c)
	if err != nil {
		return api.Gateway{}, err
	}
	if !updatable(fields) {
		return api.Gateway{}, api.Invalid("Gateway '%s' cannot be updated in-place. Delete it and re-apply.", g.Name)
	}
	now := g
	err = s.DB.Write(ctx, func(tx *store.Tx) error {
		now = g // also when this runs again
		if slices.Contains(fields, "default") {
			if err := s.setDefault(ctx, tx, sc, now, *c.Default); err != nil {
				return err
			}
		}
		rest := slices.DeleteFunc(slices.Clone(fields), func(f string) bool { return f == "default" })
		if len(rest) == 0 {
			return nil
		}
		now.Data.Configuration.Domain, now.Data.Configuration.Replicas = c.Domain, c.Replicas
		if err := update(ctx, tx, &now); err != nil {
			return err
		}
		return record(ctx, tx, sc, now, "Gateway updated. Changed fields: "+strings.Join(rest, ", "))
	})
	if errors.Is(err, store.ErrConflict) {
		return api.Gateway{}, errChanged
	}
	if err != nil {
		return api.Gateway{}, err
	}
	return s.view(ctx, sc.Project, now)
}

// seen says that the client has seen the gateway as it is.
func seen(now api.Gateway, data json.RawMessage) bool {
	var v api.Gateway
	if len(data) == 0 || json.Unmarshal(data, &v) != nil || v.ID != now.ID {
		return false
	}
	v.Configuration.Default = nil
	fields, err := changes(now.Configuration, v.Configuration)
	return err == nil && len(fields) == 0
}

// changes names the fields in which a configuration differs from what a gateway has. No
// default means that it stays as it is.
func changes(old, want config.Gateway) ([]string, error) {
	if want.Default == nil {
		want.Default = old.Default
	}
	want.Name = old.Name
	var a, b map[string]json.RawMessage
	for c, into := range map[*config.Gateway]*map[string]json.RawMessage{&old: &a, &want: &b} {
		data, err := json.Marshal(c)
		if err == nil {
			err = json.Unmarshal(data, into)
		}
		if err != nil {
			return nil, fmt.Errorf("compare gateways: %w", err)
		}
	}
	var fields []string
	for name := range b {
		if string(a[name]) != string(b[name]) {
			fields = append(fields, name)
		}
	}
	slices.Sort(fields)
	return fields, nil
}

// updatable says that all of the fields can be changed in place.
func updatable(fields []string) bool {
	return !slices.ContainsFunc(fields, func(f string) bool { return f != "domain" && f != "default" && f != "replicas" })
}
