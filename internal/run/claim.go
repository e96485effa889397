package run

import (
	"context"
	"fmt"
	"time"

	"dstack/internal/api"
	"dstack/internal/backend"
	"dstack/internal/config"
	"dstack/internal/event"
	"dstack/internal/fleet"
	"dstack/internal/instance"
	"dstack/internal/scheduler"
	"dstack/internal/store"
)

// claim gives every job of a gang its place: all or none.
func (s *Service) claim(ctx context.Context, tx *store.Tx, fleets fleetsOnce, g *gang, v scheduler.Verdict) error {
	f, known := fleets[v.Fleet]
	if !known {
		var err error
		if f, err = s.Fleets.ByID(ctx, tx, v.Fleet); err != nil {
			return err
		}
		fleets[v.Fleet] = f
	}
	if f.Deleted || f.Status != api.FleetActive {
		return fmt.Errorf("fleet %s is being deleted: %w", f.Name, store.ErrConflict)
	}
	if err := usable(ctx, tx, f, g.run.ProjectID); err != nil {
		return err
	}
	for i, n := range v.Nodes {
		if err := s.claimNode(ctx, tx, g.run, *g.jobs[i], f, n); err != nil {
			return err
		}
	}
	return s.chosen(ctx, tx, *g.run, f)
}

func (s *Service) claimNode(ctx context.Context, tx *store.Tx, r *Run, j Job, f fleet.Fleet, n scheduler.Node) error {
	text, blocks := "", n.Offer.TotalBlocks
	var on event.Target
	if n.Host != "" {
		inst, err := s.Instances.Claim(ctx, tx, instance.Claim{InstanceID: n.Host, JobID: j.ID, RunID: r.ID, Blocks: n.Blocks, Of: n.Offer.TotalBlocks})
		if err != nil {
			return err
		}
		j.InstanceID, blocks = inst.ID, inst.Blocks
		j.Data.Provisioning = inst.Data.Provisioning
		text, on = fmt.Sprintf("Job assigned to instance. Instance blocks: %d/%d busy", inst.Busy(), inst.Blocks), inst.Target()
	} else {
		if err := s.roomIn(ctx, tx, f); err != nil {
			return err
		}
		offer := n.Offer
		inst, err := s.Instances.Create(ctx, tx, instance.Want{
			ProjectID: r.ProjectID, FleetID: f.ID, FleetName: f.Name, Ask: n.Ask, First: &offer, Cluster: f.Cluster(), JobID: j.ID, RunID: r.ID, Blocks: 1, Split: split(f), IdleSeconds: idle(n.Ask), SpareUntil: j.Data.BuyFrom,
			Rank: backend.Rank{Priority: r.Priority, Since: r.SubmittedAt},
		})
		if err != nil {
			return err
		}
		j.InstanceID = inst.ID
		text, on = "Instance created for job. Instance status: PENDING", inst.Target()
	}
	j.Data.Runtime = runtimeData(n, blocks, s.Network.host(j.Data.Spec.JobsPerReplica))
	j.Data.PlacedAt, j.Data.ProcessedAt = time.Now(), time.Now()
	// A single job on a host that is ready is sent next: recorded here, it needs no transaction
	// of its own.
	j.Data.Sent = n.Host != "" && j.Data.Spec.JobsPerReplica <= 1
	d := JobDecision{Job: j}
	d.to(api.JobProvisioning)
	if err := s.rows.updateJob(ctx, tx, &d.Job); err != nil {
		return err
	}
	if err := s.recordJob(ctx, tx, d.Job, text, on); err != nil {
		return err
	}
	for _, t := range d.Events {
		if err := s.recordJob(ctx, tx, d.Job, t); err != nil {
			return err
		}
	}
	tx.OnCommit(func() {
		s.Engine.Wake(JobKind, j.ID)
		s.changed(r.ID)
	})
	return nil
}

// split is how new instances of a fleet are shared.
func split(f fleet.Fleet) *instance.Split {
	b := f.Spec.Configuration.Blocks
	if !b.Auto && b.N <= 1 {
		return nil
	}
	return &instance.Split{Blocks: b.N, Auto: b.Auto}
}

// roomIn checks in the transaction that a fleet may grow: its limit or its instances may
// have changed since the decision.
func (s *Service) roomIn(ctx context.Context, tx *store.Tx, f fleet.Fleet) error {
	if f.Spec.Configuration.Nodes == nil {
		return fmt.Errorf("fleet %s has no instances of backends: %w", f.Name, store.ErrConflict)
	}
	limit := f.Spec.Configuration.Nodes.Max
	if limit == nil {
		return nil
	}
	n, err := instance.Count(ctx, tx, f.ID)
	if err != nil {
		return err
	}
	if n >= *limit {
		return fmt.Errorf("fleet %s is at capacity: %w", f.Name, store.ErrConflict)
	}
	return nil
}

// chosen remembers the fleet of the run and that it waits no longer.
func (s *Service) chosen(ctx context.Context, tx *store.Tx, r Run, f fleet.Fleet) error {
	var version int64
	if err := tx.QueryRowContext(ctx, `SELECT `+store.Version+` FROM run WHERE id = $1`, r.ID).Scan(&version); err != nil {
		return fmt.Errorf("read the version of run %s: %w", r.Name, err)
	}
	now := r
	if version != r.Version { // another of its replicas was placed, or it is ending
		var err error
		if now, err = s.rows.run(ctx, tx, r.ID); err != nil {
			return err
		}
	}
	if now.Status == api.RunTerminating || now.Status.Finished() {
		return fmt.Errorf("run %s is ending: %w", r.Name, store.ErrConflict)
	}
	if now.Data.FleetID == f.ID && now.Data.Waiting == nil {
		return nil
	}
	now.Data.FleetID, now.Data.FleetName, now.Data.Waiting = f.ID, f.Name, nil
	return s.rows.updateRun(ctx, tx, &now)
}

// idle is how long a new instance is kept without jobs (lifecycle 16.4).
func idle(a scheduler.Ask) int64 {
	if d := a.Profile.IdleDuration; d != nil {
		return int64(*d)
	}
	return 300
}

// Network says which of the jobs that have an instance to themselves use its network. Those that
// share it have one of their own.
type Network int

// The policies, numbered as users set them; 0 is HostWhole.
const (
	HostClusters Network = 1 // those of several nodes
	HostWhole    Network = 2
	HostNone     Network = 3
)

// host is the network of a job that has its instance to itself, one of so many of its replica.
func (n Network) host(jobs int) api.NetworkMode {
	if n == HostNone || n == HostClusters && jobs <= 1 {
		return api.NetworkBridge
	}
	return api.NetworkHost
}

// runtimeData says what share the job gets of an instance with so many blocks, and which network
// when that is all of it.
func runtimeData(n scheduler.Node, blocks int, whole api.NetworkMode) *api.JobRuntimeData {
	o := n.Offer
	d := &api.JobRuntimeData{NetworkMode: whole, VolumeNames: []string{}, Offer: &o}
	if n.Blocks < blocks {
		limit(d, o.Instance.Resources)
	}
	if string(o.Backend) == "local" {
		d.NetworkMode = api.NetworkBridge // several servers and users share this machine's ports
	}
	return d
}

// limit has a job use no more of its instance than its share.
func limit(d *api.JobRuntimeData, share api.Resources) {
	gpus, cpus, mem := len(share.Gpus), float64(share.CPUs), config.Memory(float64(share.MemoryMiB)/1024)
	d.NetworkMode, d.GPU, d.CPU, d.Memory = api.NetworkBridge, &gpus, &cpus, &mem
}
