// Package volume owns network disks: their rows, the pure Step that moves them through their
// life, and the reconciler that carries it out. What costs money goes through the ledger; a
// disk that was there before is only registered.
//
// Test it with go test ./internal/volume: disks of the fake cloud in virtual time.
package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"time"

	"github.com/google/uuid"

	"dstack/internal/api"
	"dstack/internal/backend"
	"dstack/internal/config"
	"dstack/internal/engine"
	"dstack/internal/event"
	"dstack/internal/fleet"
	"dstack/internal/ledger"
	"dstack/internal/project"
	"dstack/internal/store"
	"dstack/internal/user"
)

// Kind is the engine's name for volumes.
const Kind = "volume"

// Volume is one row.
type Volume struct {
	ID        string
	ProjectID string
	UserID    string
	Name      string
	Status    api.VolumeStatus
	Backend   string
	IntentID  string // "" for a disk that was there before
	Unwanted  bool   // it is being deleted
	Deleted   bool
	CreatedAt time.Time
	Version   int64
	Data      Data
	// Damage is what people are told of a row that makes no sense, "" of one that does.
	Damage string
}

// Data is the part of a volume that no query looks into.
type Data struct {
	Configuration config.Volume `json:"configuration"`
	Message       string        `json:"message,omitempty"` // why it failed, for people
	// Disk is the provider's latest answer, nil before there is one.
	Disk        *backend.Volume `json:"disk,omitempty"`
	LastJobAt   time.Time       `json:"last_job_at,omitzero"` // a job last used it
	ProcessedAt time.Time       `json:"processed_at"`
	EndedAt     time.Time       `json:"ended_at,omitzero"` // it failed or was deleted
}

// External says that the server did not make the disk and will not delete it.
func (v *Volume) External() bool { return v.externalID() != "" }

func (v *Volume) externalID() string {
	for _, id := range []*string{v.Data.Configuration.VolumeID, v.Data.Configuration.ClaimName} {
		if id != nil {
			return *id
		}
	}
	return ""
}

// Config is what New needs; all fields are required.
type Config struct {
	DB       *store.DB
	Engine   *engine.Engine
	Ledger   *ledger.Ledger
	Projects *project.Service
	Users    *user.Service
	Clouds   ledger.Clouds
	// Backends refuses a backend of a project that cannot make volumes.
	Backends func(ctx context.Context, p project.Project, backend string) error
	Log      *slog.Logger
}

// Service creates, lists and deletes volumes.
type Service struct{ Config }

// New registers the volumes' reconciler with the engine.
func New(c Config) (*Service, error) {
	if c.DB == nil || c.Engine == nil || c.Ledger == nil || c.Projects == nil || c.Users == nil || c.Clouds == nil || c.Backends == nil || c.Log == nil {
		return nil, errors.New("volume: every field of Config is required")
	}
	s := &Service{c}
	c.Engine.Register(engine.Kind{Name: Kind, Workers: 8, Reconcile: s.reconcile,
		Live: engine.LiveQuery("SELECT id FROM volume WHERE NOT deleted AND shard IN")})
	return s, nil
}

// maxSizeGiB bounds a disk; no provider makes larger ones.
const maxSizeGiB = 1 << 20

// check refuses what no volume can be.
func (s *Service) check(ctx context.Context, p project.Project, c config.Volume) error {
	if c.Name != nil {
		if err := config.CheckName(*c.Name); err != nil {
			return api.Invalid("%v", err)
		}
	}
	v := Volume{Data: Data{Configuration: c}}
	switch {
	case c.Size == nil && !v.External() && c.Backend != "daytona" && c.Backend != "lium": // whose volumes have no size
		return api.Invalid("Volume must specify either existing identifier or size")
	case v.External() && c.AutoCleanupDuration != nil && *c.AutoCleanupDuration > 0:
		return api.Invalid("External volumes do not support auto_cleanup_duration. Only volumes that the server makes are deleted by it.")
	case c.Size != nil && (*c.Size <= 0 || *c.Size > maxSizeGiB):
		return api.Invalid("The size of a volume must be more than 0 and at most %d GB", maxSizeGiB)
	}
	return s.Backends(ctx, p, c.Backend)
}

// Create stores a volume, and the wish for its disk.
func (s *Service) Create(ctx context.Context, sc project.Scope, r api.CreateVolumeRequest) (api.Volume, error) {
	c := r.Configuration
	if err := s.check(ctx, sc.Project, c); err != nil {
		return api.Volume{}, err
	}
	if c.Name == nil {
		free, err := fleet.FreeName(func(name string) (bool, error) { return named(ctx, s.DB.Read(), sc.Project.ID, name) })
		if err != nil {
			return api.Volume{}, err
		}
		c.Name = &free
	}
	name, now := *c.Name, time.Now()
	v := Volume{ID: uuid.NewString(), ProjectID: sc.Project.ID, UserID: sc.User.ID, Name: name, Status: api.VolumeSubmitted, Backend: c.Backend,
		CreatedAt: now, Version: 1, Data: Data{Configuration: c, ProcessedAt: now}}
	err := s.DB.Write(ctx, func(tx *store.Tx) error {
		v.IntentID = ""
		if !v.External() {
			id, err := s.intend(ctx, tx, v)
			if err != nil {
				return err
			}
			v.IntentID = id
		}
		if err := insert(ctx, tx, &v); err != nil {
			return err
		}
		tx.OnCommit(func() { s.Engine.Wake(Kind, v.ID) })
		return record(ctx, tx, v, sc.Actor(event.Event{Message: "Volume created. Status: SUBMITTED"}))
	})
	if store.Constraint(err) == "volume_project_id_name_key" {
		return api.Volume{}, api.Exists("")
	}
	if err != nil {
		return api.Volume{}, err
	}
	return s.view(ctx, v)
}

func (s *Service) intend(ctx context.Context, tx *store.Tx, v Volume) (string, error) {
	c := v.Data.Configuration
	req := backend.VolumeRequest{Region: c.Region, Tags: c.Tags}
	if c.Size != nil {
		req.SizeGiB = int(math.Ceil(float64(*c.Size)))
	}
	if c.AvailabilityZone != nil {
		req.Zone = *c.AvailabilityZone
	}
	return s.Ledger.Intend(ctx, tx, ledger.Intent{Kind: backend.VolumeResource, Backend: v.Backend, Region: c.Region, ProjectID: v.ProjectID,
		OwnerKind: Kind, OwnerID: v.ID, Name: v.Name, Volume: &req})
}

// Get returns a volume that exists.
func (s *Service) Get(ctx context.Context, sc project.Scope, r api.NameRequest) (api.Volume, error) {
	v, err := get(ctx, s.DB.Read(), "NOT deleted AND project_id = $1 AND name = $2", sc.Project.ID, r.Name)
	if errors.Is(err, store.ErrNotFound) {
		return api.Volume{}, api.NotExists("")
	}
	if err != nil {
		return api.Volume{}, err
	}
	return s.view(ctx, v)
}

// ListProject returns a project's volumes, newest first.
func (s *Service) ListProject(ctx context.Context, sc project.Scope, _ struct{}) ([]api.Volume, error) {
	list, err := query(ctx, s.DB.Read(), "WHERE NOT deleted AND project_id = $1 ORDER BY created_at DESC, id", sc.Project.ID)
	if err != nil {
		return nil, err
	}
	return s.views(ctx, list)
}

// List returns a page of the volumes that a user may see, also deleted ones.
func (s *Service) List(ctx context.Context, u user.User, r api.ListVolumesRequest) ([]api.Volume, error) {
	projects, err := s.Projects.Of(ctx, u)
	if err != nil {
		return nil, err
	}
	var ids []string
	for id, p := range projects {
		if r.ProjectName == nil || p.Name == *r.ProjectName {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return []api.Volume{}, nil
	}
	list, err := query(ctx, s.DB.Read(), page(ids, r), pageArgs(ids, r)...)
	if err != nil {
		return nil, err
	}
	return s.views(ctx, list)
}

// Delete marks volumes that nothing uses; the rows go when their disks are gone. Unknown
// names are ignored.
func (s *Service) Delete(ctx context.Context, sc project.Scope, r api.NamesRequest) (*struct{}, error) {
	return nil, s.DB.Write(ctx, func(tx *store.Tx) error {
		for _, name := range r.Names {
			v, err := get(ctx, tx, "NOT deleted AND project_id = $1 AND name = $2", sc.Project.ID, name)
			if errors.Is(err, store.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			n, err := attached(ctx, tx, v.ID)
			if err != nil {
				return err
			}
			if n > 0 {
				return api.Invalid("Failed to delete volume %s. Volume is in use.", name)
			}
			if v.Unwanted {
				continue
			}
			v.Unwanted = true
			if err := update(ctx, tx, &v); err != nil {
				return err
			}
			if err := record(ctx, tx, v, sc.Actor(event.Event{Message: "Volume marked for deletion"})); err != nil {
				return err
			}
			tx.OnCommit(func() { s.Engine.Wake(Kind, v.ID) })
		}
		return nil
	})
}

// Busy names the volumes that forbid deleting a project, "" when there are none.
func (s *Service) Busy(ctx context.Context, q store.Querier, projectID string) (string, error) {
	names, err := names(ctx, q, "project_id = $1", projectID)
	if err != nil || len(names) == 0 {
		return "", err
	}
	return "Failed to delete project with active volumes: " + api.List(names), nil
}

// InBackend says that a project has volumes in a backend, which must not be forgotten then.
func (s *Service) InBackend(ctx context.Context, q store.Querier, projectID, name string) (bool, error) {
	list, err := names(ctx, q, "project_id = $1 AND backend = $2", projectID, name)
	return len(list) > 0, err
}

func record(ctx context.Context, tx *store.Tx, v Volume, e event.Event) error {
	e.ProjectID = v.ProjectID
	e.Targets = []event.Target{{Type: api.EventTargetVolume, ID: v.ID, Name: v.Name}}
	return event.Record(ctx, tx, e)
}

func statusEvent(from, to api.VolumeStatus, msg string) string {
	text := fmt.Sprintf("Volume status changed %s -> %s", strings.ToUpper(string(from)), strings.ToUpper(string(to)))
	if msg != "" {
		text += " (" + msg + ")"
	}
	return text
}
