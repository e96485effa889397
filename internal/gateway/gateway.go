// Package gateway owns the public entries of services: their rows, which of them is a
// project's default, and what of them can be changed in place.
//
// Nothing makes the machines of gateways yet, so a gateway can be made only where a backend
// says that it can: see [Config.Backends].
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
	"dstack/internal/event"
	"dstack/internal/export"
	"dstack/internal/fleet"
	"dstack/internal/project"
	"dstack/internal/store"
)

// Gateway is one row.
type Gateway struct {
	ID        string
	ProjectID string
	Name      string
	Status    api.GatewayStatus
	CreatedAt time.Time
	Version   int64
	Data      Data
}

// Data is the part of a gateway that no query looks into.
type Data struct {
	Configuration config.Gateway `json:"configuration"`
	Message       string         `json:"message,omitempty"`  // about the status, for people
	Hostname      string         `json:"hostname,omitempty"` // of a load balancer
}

// Config is what New needs; all fields are required.
type Config struct {
	DB       *store.DB
	Projects *project.Service
	// Backends refuses a backend of a project that cannot make gateways.
	Backends func(ctx context.Context, p project.Project, backend string) error
}

// Service plans, creates, changes and deletes gateways.
type Service struct{ Config }

// New returns a Service.
func New(c Config) (*Service, error) {
	if c.DB == nil || c.Projects == nil || c.Backends == nil {
		return nil, errors.New("gateway: every field of Config is required")
	}
	return &Service{c}, nil
}

// List returns a project's gateways and, if asked for, those of others that it uses, newest
// first.
func (s *Service) List(ctx context.Context, sc project.Scope, r api.ListGatewaysRequest) ([]api.Gateway, error) {
	q := s.DB.Read()
	list, err := query(ctx, q, "WHERE project_id = $1 ORDER BY created_at DESC, id", sc.Project.ID)
	if err != nil {
		return nil, err
	}
	if r.IncludeImported {
		imported, err := imported(ctx, q, sc.Project.ID)
		if err != nil {
			return nil, err
		}
		list = append(list, imported...)
		slices.SortStableFunc(list, func(a, b Gateway) int { return b.CreatedAt.Compare(a.CreatedAt) })
	}
	def, err := defaultOf(ctx, q, sc.Project.ID)
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	out := []api.Gateway{}
	for _, g := range list {
		if names[g.ProjectID] == "" {
			p, err := s.Projects.ByID(ctx, q, g.ProjectID)
			if err != nil {
				return nil, err
			}
			names[g.ProjectID] = p.Name
		}
		out = append(out, view(g, names[g.ProjectID], g.ID == def))
	}
	return out, nil
}

// Get returns a gateway of the project.
func (s *Service) Get(ctx context.Context, sc project.Scope, r api.NameRequest) (api.Gateway, error) {
	g, err := s.find(ctx, s.DB.Read(), sc.Project.ID, r.Name)
	if err != nil {
		return api.Gateway{}, err
	}
	return s.view(ctx, sc.Project, g)
}

// find answers as the API does when there is none.
func (s *Service) find(ctx context.Context, q store.Querier, projectID, name string) (Gateway, error) {
	g, err := get(ctx, q, "project_id = $1 AND name = $2", projectID, name)
	if errors.Is(err, store.ErrNotFound) {
		return Gateway{}, api.NotExists("")
	}
	return g, err
}

func (s *Service) view(ctx context.Context, p project.Project, g Gateway) (api.Gateway, error) {
	def, err := defaultOf(ctx, s.DB.Read(), p.ID)
	if err != nil {
		return api.Gateway{}, err
	}
	return view(g, p.Name, g.ID == def), nil
}

// view is a gateway as the wire has it; isDefault is what it is to the project that looks.
func view(g Gateway, projectName string, isDefault bool) api.Gateway {
	c := g.Data.Configuration
	c.Default = &isDefault
	v := api.Gateway{ID: g.ID, Name: g.Name, ProjectName: projectName, Configuration: c, CreatedAt: api.At(g.CreatedAt), Status: g.Status,
		WildcardDomain: c.Domain, Default: isDefault, Replicas: []api.GatewayReplica{}}
	if g.Data.Message != "" {
		v.StatusMessage = &g.Data.Message
	}
	if g.Data.Hostname != "" {
		v.Hostname = &g.Data.Hostname
	}
	return v
}

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
	name := fleet.GeneratedName()
	if c.Name != nil {
		name = *c.Name
	}
	wanted := c.Default
	c.Name, c.Default = &name, nil // who is the default is stored elsewhere
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

// Delete removes gateways; unknown names are ignored.
func (s *Service) Delete(ctx context.Context, sc project.Scope, r api.NamesRequest) (*struct{}, error) {
	return nil, s.DB.Write(ctx, func(tx *store.Tx) error {
		for _, name := range r.Names {
			g, err := get(ctx, tx, "project_id = $1 AND name = $2", sc.Project.ID, name)
			if errors.Is(err, store.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			if err := remove(ctx, tx, g); err != nil {
				return err
			}
			if err := export.Forget(ctx, tx, g.ID); err != nil {
				return err
			}
			if err := record(ctx, tx, sc, g, "Gateway deleted"); err != nil {
				return err
			}
		}
		return nil
	})
}

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

// Shareable finds the gateways of a project that shall be exported.
func (s *Service) Shareable(ctx context.Context, q store.Querier, p project.Project, names []string) ([]string, error) {
	var ids, missing []string
	for _, name := range names {
		g, err := get(ctx, q, "project_id = $1 AND name = $2", p.ID, name)
		if errors.Is(err, store.ErrNotFound) {
			missing = append(missing, name)
			continue
		}
		if err != nil {
			return nil, err
		}
		ids = append(ids, g.ID)
	}
	if missing != nil {
		return nil, api.NotExists("Gateways %s not found in project '%s'", api.List(missing), p.Name)
	}
	return ids, nil
}

// Lost is told that a project may not use a gateway of another any more: it is its default no
// longer.
func (s *Service) Lost(ctx context.Context, tx *store.Tx, projectID, gatewayID string) error {
	_, err := tx.ExecContext(ctx, `DELETE FROM gateway_default WHERE project_id = $1 AND gateway_id = $2`, projectID, gatewayID)
	if err != nil {
		return fmt.Errorf("unset a default gateway: %w", err)
	}
	return nil
}

// Deleted removes the gateways of a project that is deleted.
func (s *Service) Deleted(ctx context.Context, tx *store.Tx, p project.Project) error {
	list, err := query(ctx, tx, "WHERE project_id = $1", p.ID)
	if err != nil {
		return err
	}
	for _, g := range list {
		if err := remove(ctx, tx, g); err != nil {
			return err
		}
	}
	return storeDefault(ctx, tx, p.ID, "")
}

func record(ctx context.Context, tx *store.Tx, sc project.Scope, g Gateway, text string) error {
	return event.Record(ctx, tx, sc.Actor(event.Event{Message: text,
		Targets: []event.Target{{Type: api.EventTargetGateway, ID: g.ID, Name: g.Name, ProjectID: g.ProjectID}}}))
}
