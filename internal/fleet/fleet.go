// Package fleet owns groups of instances: hosts of the user reached by SSH, and machines
// that backends provide within limits.
package fleet

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"dstack/internal/api"
	"dstack/internal/crypt"
	"dstack/internal/engine"
	"dstack/internal/event"
	"dstack/internal/export"
	"dstack/internal/instance"
	"dstack/internal/offer"
	"dstack/internal/project"
	"dstack/internal/scheduler"
	"dstack/internal/store"
)

// Kind is the engine's name for fleets.
const Kind = "fleet"

// Fleet is one row. Its spec holds no private key.
type Fleet struct {
	ID        string
	ProjectID string
	Name      string
	Status    api.FleetStatus
	Deleted   bool
	CreatedAt time.Time
	Version   int64
	Spec      api.FleetSpec
	// Damage is why Spec is a stand-in for what is stored, "" when it is not.
	Damage string
	// Attempts counts how often in a row the fleet was brought to its size, ConsolidatedAt is
	// when it last was looked at for that.
	Attempts       int
	ConsolidatedAt time.Time
}

// SSH says that the fleet's instances are hosts of the user.
func (f Fleet) SSH() bool { return f.Spec.Configuration.SSHConfig != nil }

// Config is what New needs; all fields are required.
type Config struct {
	DB        *store.DB
	Engine    *engine.Engine
	Box       *crypt.Box
	Projects  *project.Service
	Instances func() *instance.Service
	// Market is what a project's backends say now, for an ask.
	Market func(ctx context.Context, projectID string, ask scheduler.Ask) (Market, error)
	// Freed is called after a commit that lets the instances of a project become more.
	Freed func(projectID string)
	Log   *slog.Logger
}

// Market is what the backends of a project say.
type Market struct {
	Offers   []api.InstanceOffer // cheapest first
	Index    *scheduler.Index    // of Offers
	Backends int                 // how many there are, answering or not
	Problems []api.BackendProblem
}

// Service plans, applies and deletes fleets.
type Service struct {
	Config
	known *known
	texts *texts
}

// New registers the fleets' reconciler with the engine.
func New(c Config) (*Service, error) {
	if c.DB == nil || c.Engine == nil || c.Box == nil || c.Projects == nil || c.Instances == nil || c.Market == nil || c.Freed == nil || c.Log == nil {
		return nil, errors.New("fleet: every field of Config is required")
	}
	s := &Service{Config: c, known: newKnown(), texts: newTexts()}
	c.Engine.Register(engine.Kind{Name: Kind, Workers: 8, Reconcile: s.reconcile,
		Live: engine.LiveQuery("SELECT id FROM fleet WHERE NOT deleted AND shard IN")})
	return s, nil
}

const columns = `id, project_id, name, status, deleted, created_at, ` + store.Version + ` AS version, attempts, consolidated_at, data`

func scan(row interface{ Scan(...any) error }) (Fleet, error) {
	var f Fleet
	var at, consolidated int64
	err := f.whole(store.Scan(row, &f.ID, &f.ProjectID, &f.Name, &f.Status, &f.Deleted, &at, &f.Version, &f.Attempts, &consolidated, store.JSON((*document)(&f.Spec))))
	if errors.Is(err, sql.ErrNoRows) {
		return Fleet{}, store.ErrNotFound
	}
	if err != nil {
		return Fleet{}, fmt.Errorf("read a fleet: %w", err)
	}
	f.CreatedAt, f.ConsolidatedAt = store.Time(at), store.Time(consolidated)
	return f, nil
}

func get(ctx context.Context, q store.Querier, where string, args ...any) (Fleet, error) {
	return scan(q.QueryRowContext(ctx, "SELECT "+columns+" FROM fleet WHERE "+where, args...))
}

func query(ctx context.Context, q store.Querier, tail string, args ...any) ([]Fleet, error) {
	rows, err := q.QueryContext(ctx, "SELECT "+columns+" FROM fleet "+tail, args...)
	if err != nil {
		return nil, fmt.Errorf("list fleets: %w", err)
	}
	defer rows.Close()
	var list []Fleet
	for rows.Next() {
		f, err := scan(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, f)
	}
	return list, rows.Err()
}

// ByID finds a fleet, also a deleted one. What its spec points to is shared.
func (s *Service) ByID(ctx context.Context, q store.Querier, id string) (Fleet, error) {
	return s.known.byID(ctx, q, id)
}

// Active lists a project's fleets that runs can use, oldest first.
func (s *Service) Active(ctx context.Context, q store.Querier, projectID string) ([]Fleet, error) {
	list, err := s.known.list(ctx, q, "WHERE NOT deleted AND status = 'active' AND project_id = $1 ORDER BY created_at, id", projectID)
	return intact(list), err
}

// MinNodes is how many instances a fleet keeps.
func (s *Service) MinNodes(ctx context.Context, id string) int {
	f, err := s.ByID(ctx, s.DB.Read(), id)
	if err != nil || f.Spec.Configuration.Nodes == nil || f.Status != api.FleetActive {
		return 0
	}
	return f.Spec.Configuration.Nodes.Min
}

func (s *Service) update(ctx context.Context, tx *store.Tx, f *Fleet) error {
	var data any = store.JSON(&f.Spec)
	if f.Damage != "" {
		data = nil // somebody may mend what is there
	}
	err := store.Guarded(tx.ExecContext(ctx, `
UPDATE fleet SET status = $1, deleted = $2, attempts = $3, consolidated_at = $4, data = coalesce($5, data), version = `+store.NextVersion+` WHERE id = $6 AND `+store.Version+` = $7`,
		f.Status, f.Deleted, f.Attempts, store.Micros(f.ConsolidatedAt), data, f.ID, f.Version))
	if err != nil {
		return fmt.Errorf("store fleet %s: %w", f.Name, err)
	}
	f.Version++
	return nil
}

func (s *Service) record(ctx context.Context, tx *store.Tx, f Fleet, e event.Event) error {
	e.ProjectID = f.ProjectID
	e.Targets = []event.Target{{Type: api.EventTargetFleet, ID: f.ID, Name: f.Name}}
	return event.Record(ctx, tx, e)
}

// NameOf is a fleet's name, "" when it is not known.
func (s *Service) NameOf(ctx context.Context, id string) string {
	f, err := s.ByID(ctx, s.DB.Read(), id)
	if err != nil {
		return ""
	}
	return f.Name
}

// reconcile loads one fleet, lets Step decide and carries it out in one transaction.
func (s *Service) reconcile(ctx context.Context, it engine.Item) (time.Time, error) {
	f, err := s.ByID(ctx, s.DB.Read(), it.ID)
	if errors.Is(err, store.ErrNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	if f.Damage != "" {
		s.Log.Error("the stored record of a fleet cannot be read", "fleet", f.Name, "id", f.ID, "err", f.Damage)
	}
	snap := Snapshot{Fleet: f}
	if f.steps() {
		snap.Instances, err = instance.OfFleets(ctx, s.DB.Read(), f.ID)
		if err != nil {
			return time.Time{}, err
		}
	}
	d := Step(time.Now(), snap)
	if !d.Changed {
		return d.Again, nil
	}
	return d.Again, s.DB.Write(ctx, func(tx *store.Tx) error {
		if err := it.Fence.Check(ctx, tx); err != nil {
			return err
		}
		if err := s.update(ctx, tx, &d.Fleet); err != nil {
			return err
		}
		if d.Fleet.Deleted {
			if err := export.Forget(ctx, tx, f.ID); err != nil {
				return err
			}
		}
		for _, t := range d.Terminate {
			if err := s.Instances().Terminate(ctx, tx, t.Instance, t.Reason, t.Msg); err != nil {
				return err
			}
		}
		for _, inst := range d.Delete {
			if err := s.Instances().Terminate(ctx, tx, inst, "", ""); err != nil {
				return err
			}
		}
		lacks, err := missing(ctx, tx, d.Fleet, d.Create)
		if err != nil {
			return err
		}
		if err := s.addNodes(ctx, tx, d.Fleet, lacks); err != nil {
			return err
		}
		for _, text := range d.Events {
			if err := s.record(ctx, tx, d.Fleet, event.Event{Message: text}); err != nil {
				return err
			}
		}
		return nil
	})
}

// defaultIdle is how long nodes of a fleet are kept without jobs, in seconds: 72 h
// (lifecycle 16.4).
const defaultIdle = 72 * 3600

// missing is how many of the nodes that a fleet was found to lack it still does: runs may have brought some since.
func missing(ctx context.Context, q store.Querier, f Fleet, found int) (int, error) {
	if found == 0 {
		return 0, nil
	}
	n, err := instance.Count(ctx, q, f.ID)
	return max(0, min(found, f.Spec.Configuration.Nodes.Min-n)), err
}

// addNodes creates n instances for a cloud fleet.
func (s *Service) addNodes(ctx context.Context, tx *store.Tx, f Fleet, n int) error {
	c := f.Spec.Configuration
	idle := int64(defaultIdle)
	if d := f.Spec.Merged().IdleDuration; d != nil {
		idle = int64(*d)
	}
	blocks := c.Blocks.N
	if c.Blocks.Auto {
		blocks = 0
	}
	for range n {
		_, err := s.Instances().Create(ctx, tx, instance.Want{
			ProjectID: f.ProjectID, FleetID: f.ID, FleetName: f.Name, Ask: f.Ask(), Cluster: f.Cluster(), Blocks: blocks, IdleSeconds: idle,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// ToAPI turns a backend's offer into the wire's form.
func ToAPI(o offer.Offer) api.InstanceOffer {
	res := api.Resources{CPUs: o.Resources.CPUs, MemoryMiB: o.Resources.MemoryMiB, Gpus: []api.Gpu{}, Spot: o.Resources.Spot, Disk: api.Disk{SizeMiB: o.Resources.DiskMiB}}
	if o.Resources.Arch != "" {
		arch := api.CPUArchitecture(o.Resources.Arch)
		res.CPUArch = &arch
	}
	for _, g := range o.Resources.GPUs {
		res.Gpus = append(res.Gpus, api.Gpu{Name: g.Name, MemoryMiB: g.MemoryMiB, Vendor: api.AcceleratorVendor(g.Vendor)})
	}
	rt := api.RuntimeShim
	if o.Runtime != "" {
		rt = api.InstanceRuntime(o.Runtime)
	}
	data := o.Data
	if data == nil {
		data = map[string]any{}
	}
	var rooms []api.Room
	for _, r := range o.Rooms {
		rooms = append(rooms, api.Room(r))
	}
	return api.InstanceOffer{Backend: api.BackendType(o.Backend), Instance: api.InstanceType{Name: o.Instance, Resources: res}, Region: o.Region, Price: o.Price,
		BackendData: data, Availability: api.InstanceAvailability(o.Availability), AvailabilityZones: o.Zones, InstanceRuntime: rt, Blocks: 1, TotalBlocks: 1,
		Reserves: o.Reserves, Multinode: o.Multinode, Rooms: rooms, Order: o.Order}
}

// orMissing turns "no such row" into the answer of the API.
func orMissing(err error) error {
	if err == nil || errors.Is(err, store.ErrNotFound) {
		return api.NotExists("")
	}
	return err
}
