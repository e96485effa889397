// Package gateway owns the public entries of services: their rows, which of them is a
// project's default, and what of them can be changed in place.
//
// Nothing makes the machines of gateways yet, so a gateway can be made only where a backend
// says that it can: see [Config.Backends].
package gateway

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/event"
	"dstack/internal/export"
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
	// Damage is what people are told of a row that makes no sense, "" of one that does.
	Damage string
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
	if text := cmp.Or(g.Damage, g.Data.Message); text != "" {
		v.StatusMessage = &text
	}
	if g.Data.Hostname != "" {
		v.Hostname = &g.Data.Hostname
	}
	return v
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
