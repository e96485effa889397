package instance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"dstack/internal/api"
	"dstack/internal/engine"
	"dstack/internal/event"
	"dstack/internal/host"
	"dstack/internal/ledger"
	"dstack/internal/scheduler"
	"dstack/internal/store"
)

// Kind is the engine's name for instances.
const Kind = "instance"

// Hosts is the part of the host pool that instances need.
type Hosts interface {
	Watch(t host.Target)
	Forget(id string)
}

// Sealer encrypts what must not lie in the database in the clear.
type Sealer interface {
	Seal(plain string) (string, error)
	Open(sealed string) (string, error)
}

// Keys gives the key pair with which the server logs in to a project's machines.
type Keys interface {
	ProjectKey(ctx context.Context, projectID string) (public, private string, err error)
}

// Config is what New needs; all fields are required.
type Config struct {
	DB      *store.DB
	Engine  *engine.Engine
	Ledger  *ledger.Ledger
	Hosts   Hosts
	Onboard Onboarder
	Sealer  Sealer
	Keys    Keys
	Checks  HealthChecks
	Log     *slog.Logger
	// Freed is called after a commit that changed who of a project may have what: capacity became usable, those who
	// waited for it need not wait for it any more, as it failed, or a fleet has room.
	Freed func(projectID string)
	// Changed is called after a commit that changed an instance on which jobs wait.
	Changed func(jobIDs []string)
	// FleetChanged is called after a commit that ended an instance.
	FleetChanged func(fleetID string)
	// MinNodes is how many instances a fleet keeps.
	MinNodes func(ctx context.Context, fleetID string) int
	// Awaited says that a run of the project waits that could use an instance if it were up.
	Awaited func(ctx context.Context, inst Instance) (bool, error)
	// FleetName names a fleet in the cloud's tags and in messages.
	FleetName func(ctx context.Context, fleetID string) string
	// Offers lists what a project's backends offer and an instance may be bought on, cheapest
	// first, and other things; those that could not be had lately are left out when they are to be spared.
	// More for an ask may come until pending, zero when all have answered.
	Offers func(ctx context.Context, projectID string, ask scheduler.Ask, spare bool) (list []api.InstanceOffer, pending time.Time, err error)
	// MaxOffers bounds the offers that are tried for one instance, 0: 25.
	MaxOffers int
	// ProjectName names a project in the cloud's tags.
	ProjectName func(ctx context.Context, projectID string) string
}

// Service creates, claims and ends instances.
type Service struct {
	Config
	mu    sync.Mutex
	links map[string]Link

	known *known
	turns *turns
	began time.Time
}

// New checks c and registers the instances' reconciler with the engine.
func New(c Config) (*Service, error) {
	if c.DB == nil || c.Engine == nil || c.Ledger == nil || c.Hosts == nil || c.Onboard == nil || c.Sealer == nil ||
		c.Keys == nil || c.Checks == nil || c.Log == nil || c.Freed == nil || c.Changed == nil || c.FleetChanged == nil || c.MinNodes == nil || c.Awaited == nil || c.FleetName == nil || c.Offers == nil || c.ProjectName == nil {
		return nil, errors.New("instance: every field of Config is required")
	}
	s := &Service{Config: c, links: map[string]Link{}, known: newKnown(), turns: newTurns(visitors), began: time.Now()}
	c.Engine.Register(engine.Kind{Name: Kind, Workers: workers, Timeout: 5 * time.Minute, Live: toLookAt, Reconcile: s.reconcile, Lost: s.lost})
	return s, nil
}

// Create stores an instance that a paid machine will be made for. With a first offer, which is
// not elsewhere than its cluster, the ledger's intent is written in the same transaction, so that
// neither exists without the other; else the reconciler looks for one.
func (s *Service) Create(ctx context.Context, tx *store.Tx, n Want) (Instance, error) {
	nums, err := nextNumbers(ctx, tx, n.FleetID, 1)
	if err != nil {
		return Instance{}, err
	}
	inst := Instance{
		ID: uuid.NewString(), ProjectID: n.ProjectID, FleetID: n.FleetID,
		Num: nums[0], Name: fmt.Sprintf("%s-%d", n.FleetName, nums[0]),
		Status: api.InstancePending, CreatedAt: time.Now(), Blocks: n.Blocks,
		Data: Data{Ask: &n.Ask, Cluster: n.Cluster, Tags: n.Ask.Profile.Tags, ForJob: n.JobID, IdleSeconds: n.IdleSeconds, AutoBlocks: n.Blocks == 0, SpareUntil: n.SpareUntil, Split: n.Split, Rank: n.Rank},
	}
	if n.First != nil {
		together, err := together(ctx, tx, inst, *n.First)
		if err != nil {
			return Instance{}, err
		}
		if !together { // the reconciler looks for one that is
			n.First = nil
		}
	}
	if n.First != nil {
		if err := s.intend(ctx, tx, &inst, *n.First, n.FleetName); err != nil {
			return Instance{}, err
		}
	}
	if err := insert(ctx, tx, &inst); err != nil {
		return Instance{}, err
	}
	text := "Instance created to meet target fleet node count. Status: PENDING"
	if n.JobID != "" {
		text = "Instance created for job. Instance status: PENDING"
		if err := assign(ctx, tx, &inst, Assignment{JobID: n.JobID, Blocks: n.Blocks}, n.RunID); err != nil {
			return Instance{}, err
		}
	}
	tx.OnCommit(func() { s.Engine.Wake(Kind, inst.ID) })
	return inst, s.record(ctx, tx, inst, text)
}

// CreateSSH stores instances for hosts of the user. One for a host that the fleet is removing is
// stored when the host has been cleaned. A host that another instance uses is refused by the
// table's constraint.
func (s *Service) CreateSSH(ctx context.Context, tx *store.Tx, projectID, fleetID, fleetName string, hosts []NewHost) error {
	hosts, err := s.afterRemoval(ctx, tx, fleetID, hosts)
	if err != nil {
		return err
	}
	nums, err := nextNumbers(ctx, tx, fleetID, len(hosts))
	if err != nil {
		return err
	}
	for n, h := range hosts {
		inst := Instance{
			ID: uuid.NewString(), ProjectID: projectID, FleetID: fleetID,
			Num: nums[n], Name: fmt.Sprintf("%s-%d", fleetName, nums[n]),
			Status: api.InstancePending, Backend: Remote, SSHHost: h.address(),
			CreatedAt: time.Now(), Blocks: h.Blocks,
			Data: Data{Remote: &h.Remote, IdleSeconds: -1, AutoBlocks: h.AutoBlocks},
		}
		if err := insert(ctx, tx, &inst); err != nil {
			return err
		}
		if err := s.record(ctx, tx, inst, "Instance created on fleet submission. Status: PENDING"); err != nil {
			return err
		}
		tx.OnCommit(func() { s.Engine.Wake(Kind, inst.ID) })
	}
	return nil
}

// afterRemoval has hosts that the fleet is removing come back after that, and returns the others.
func (s *Service) afterRemoval(ctx context.Context, tx *store.Tx, fleetID string, hosts []NewHost) ([]NewHost, error) {
	addresses := make([]string, len(hosts))
	for n, h := range hosts {
		addresses[n] = h.address()
	}
	list, err := OnHosts(ctx, tx, fleetID, addresses)
	if err != nil {
		return nil, err
	}
	leaving := map[string]Instance{}
	for _, inst := range list {
		if inst.Status == api.InstanceTerminating {
			leaving[inst.SSHHost] = inst
		}
	}
	var now []NewHost
	for _, h := range hosts {
		inst, ok := leaving[h.address()]
		if !ok {
			now = append(now, h)
			continue
		}
		inst.Data.Next = &h
		if err := s.update(ctx, tx, &inst); err != nil {
			return nil, err
		}
	}
	return now, nil
}

// comeBack stores the instance that follows one that has gone.
func (s *Service) comeBack(ctx context.Context, tx *store.Tx, gone Instance) error {
	if gone.Data.Next == nil {
		return nil
	}
	return s.CreateSSH(ctx, tx, gone.ProjectID, gone.FleetID, s.FleetName(ctx, gone.FleetID), []NewHost{*gone.Data.Next})
}

// Claim gives blocks of a live instance to a job. It is a compare-and-swap on the row:
// store.ErrConflict means that the instance changed or has no room; load and decide again.
func (s *Service) Claim(ctx context.Context, tx *store.Tx, c Claim) (Instance, error) {
	inst, err := s.Get(ctx, tx, c.InstanceID)
	if err != nil {
		return Instance{}, err
	}
	for _, a := range inst.Assignments {
		if a.JobID == c.JobID {
			return inst, nil // a repeated claim
		}
	}
	if !inst.Live() || inst.Unreachable || inst.health() == api.Failure || inst.Blocks != c.Of || inst.Busy()+c.Blocks > inst.Blocks {
		return Instance{}, fmt.Errorf("claim %d of %d blocks of instance %s: %w", c.Blocks, inst.Blocks, inst.Name, store.ErrConflict)
	}
	return s.take(ctx, tx, inst, c)
}

// take stores what a claim asks for, for which there is room.
func (s *Service) take(ctx context.Context, tx *store.Tx, inst Instance, c Claim) (Instance, error) {
	if err := assign(ctx, tx, &inst, Assignment{JobID: c.JobID, Blocks: c.Blocks}, c.RunID); err != nil {
		return Instance{}, err
	}
	if inst.Status == api.InstanceIdle {
		was := inst.Status
		inst.Status = api.InstanceBusy
		if err := s.record(ctx, tx, inst, statusEvent(was, inst.Status, inst.Data)); err != nil {
			return Instance{}, err
		}
	}
	return inst, s.update(ctx, tx, &inst)
}

// Release ends a job's hold. It may be repeated. The returned instance is as after the
// release; its reconciler is woken and decides whether it becomes idle or is given back.
func (s *Service) Release(ctx context.Context, tx *store.Tx, instanceID, jobID string) (Instance, error) {
	inst, err := s.Get(ctx, tx, instanceID)
	if errors.Is(err, store.ErrNotFound) {
		_, err := tx.ExecContext(ctx, deleteAssignment, jobID, instanceID)
		return Instance{}, errors.Join(store.ErrNotFound, err)
	}
	if err != nil {
		return Instance{}, err
	}
	kept := inst.Assignments[:0:0]
	for _, a := range inst.Assignments {
		if a.JobID != jobID {
			kept = append(kept, a)
		}
	}
	if len(kept) == len(inst.Assignments) {
		return inst, s.releaseUncounted(ctx, tx, inst, jobID)
	}
	if err := unassign(ctx, tx, inst, jobID); err != nil {
		return Instance{}, err
	}
	inst.Assignments = kept
	if len(kept) == 0 {
		inst.split()
	}
	inst.LastJobAt = time.Now()
	was := inst.Status
	if len(kept) == 0 && was == api.InstanceBusy {
		inst.Status = api.InstanceIdle
		if err := s.record(ctx, tx, inst, statusEvent(was, inst.Status, inst.Data)); err != nil {
			return Instance{}, err
		}
	}
	tx.OnCommit(func() {
		s.Engine.Wake(Kind, inst.ID)
		s.Freed(inst.ProjectID)
	})
	return inst, s.update(ctx, tx, &inst)
}

// Terminate asks for the end of an instance, and of what should come after it. One that has ended
// stays as it is.
func (s *Service) Terminate(ctx context.Context, tx *store.Tx, inst Instance, reason api.InstanceTerminationReason, msg string) error {
	if inst.Deleted || inst.Status == api.InstanceTerminating && inst.Data.Next == nil {
		return nil
	}
	if inst.Status == api.InstanceTerminating {
		inst.Data.Next = nil
		return s.update(ctx, tx, &inst)
	}
	if inst.Status == api.InstanceTerminated {
		inst.Deleted = true
		tx.OnCommit(func() { s.FleetChanged(inst.FleetID) })
		return s.update(ctx, tx, &inst)
	}
	was := inst.Status
	inst.Status = api.InstanceTerminating
	inst.Data.Reason, inst.Data.Message, inst.Data.Tries = reason, msg, 0
	if err := s.update(ctx, tx, &inst); err != nil {
		return err
	}
	tx.OnCommit(func() {
		s.Engine.Wake(Kind, inst.ID)
		s.Freed(inst.ProjectID)
	})
	return s.record(ctx, tx, inst, statusEvent(was, inst.Status, inst.Data))
}

func assign(ctx context.Context, tx *store.Tx, inst *Instance, a Assignment, runID string) error {
	_, err := tx.ExecContext(ctx, insertAssignment, a.JobID, inst.ID, a.Blocks, store.Micros(time.Now()), runID)
	if err != nil {
		return fmt.Errorf("assign job %s to instance %s: %w", a.JobID, inst.Name, err)
	}
	inst.Assignments = append(slices.Clip(inst.Assignments), a) // others may know the row as it was
	return nil
}

// unassign ends a job's hold.
func unassign(ctx context.Context, tx *store.Tx, inst Instance, jobID string) error {
	if err := keepHeld(ctx, tx, inst, jobID, time.Now()); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, deleteAssignment, jobID, inst.ID); err != nil {
		return fmt.Errorf("release instance %s: %w", inst.Name, err)
	}
	return nil
}

// keepHeld keeps what a job has held until now, where that costs something.
func keepHeld(ctx context.Context, tx *store.Tx, inst Instance, jobID string, now time.Time) error {
	if inst.SSH() {
		return nil
	}
	_, err := tx.ExecContext(ctx, endAssignment, jobID, inst.ID, inst.ProjectID, max(1, inst.Blocks), store.Micros(now))
	if err != nil {
		return fmt.Errorf("keep what job %s held of instance %s: %w", jobID, inst.Name, err)
	}
	return nil
}

func (s *Service) record(ctx context.Context, tx *store.Tx, inst Instance, text string) error {
	return event.Record(ctx, tx, event.Event{
		Message: text, ProjectID: inst.ProjectID,
		Targets: []event.Target{inst.Target()},
	})
}

// Target is the instance in events.
func (inst *Instance) Target() event.Target {
	return event.Target{Type: api.EventTargetInstance, ID: inst.ID, Name: inst.Name, ProjectID: inst.ProjectID, ParentID: inst.FleetID}
}
