package run

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/engine"
	"dstack/internal/fleet"
	"dstack/internal/instance"
	"dstack/internal/scheduler"
	"dstack/internal/store"
)

// candidate is one way to run a job: a share of an instance that exists, or a new one.
type candidate struct {
	fleet    fleet.Fleet
	instance *instance.Instance // nil for a new one
	offer    api.InstanceOffer  // with the share's resources
	blocks   int
}

const noFleet = "No matching fleet found. Possible reasons: https://dstack.ai/docs/guides/troubleshooting/#no-fleets"

// place finds an instance for a job and claims it. Losing a race against another job is
// normal: load and try again.
func (s *Service) place(ctx context.Context, it engine.Item, j Job) (time.Time, error) {
	r, err := getRun(ctx, s.DB.Read(), "id = $1", j.RunID)
	if err != nil {
		return time.Time{}, err
	}
	list, why, err := s.candidates(ctx, r, j.Data.Spec)
	if err != nil {
		return time.Time{}, err
	}
	for _, c := range list {
		if !c.offer.Availability.Usable() || c.instance == nil && contains(j.Data.Tried, offerKey(c.offer)) {
			continue
		}
		err := s.claim(ctx, it, r, j, c)
		if errors.Is(err, store.ErrConflict) {
			return time.Now().Add(5 * time.Millisecond), nil
		}
		return time.Time{}, err
	}
	return time.Time{}, s.failJob(ctx, it, j, api.JobNoCapacity, why)
}

func offerKey(o api.InstanceOffer) string {
	return fmt.Sprintf("%s/%s/%s/%t", o.Backend, o.Region, o.Instance.Name, o.Instance.Resources.Spot)
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}

// candidates lists how a job could run, best first: instances that exist before new ones,
// then by price. why says what to tell when the list is empty.
func (s *Service) candidates(ctx context.Context, r Run, spec api.JobSpec) (list []candidate, why string, err error) {
	profile := r.Data.Spec.Merged()
	fleets, err := s.Fleets.Active(ctx, s.DB.Read(), r.ProjectID)
	if err != nil {
		return nil, "", err
	}
	fleets = wanted(fleets, profile.Fleets)
	if len(fleets) == 0 {
		if profile.Fleets != nil {
			return nil, "Failed to use specified fleets", nil
		}
		return nil, noFleet, nil
	}
	ids := make([]string, len(fleets))
	byID := map[string]fleet.Fleet{}
	for i, f := range fleets {
		ids[i], byID[f.ID] = f.ID, f
	}
	instances, err := instance.OfFleets(ctx, s.DB.Read(), ids...)
	if err != nil {
		return nil, "", err
	}
	why = noFleet
	for i := range instances {
		inst := &instances[i]
		c, reason := existing(spec.Requirements, profile, byID[inst.FleetID], inst)
		if c != nil {
			list = append(list, *c)
		} else if reason != "" {
			why = noFleet
		}
	}
	if *profile.CreationPolicy != "reuse" && len(profile.Instances) == 0 {
		more, err := s.creatable(ctx, r.ProjectID, spec.Requirements, profile, fleets, instances)
		if err != nil {
			return nil, "", err
		}
		list = append(list, more...)
	} else if len(list) == 0 {
		why = "Could not reuse any instance for this job"
	}
	sort.SliceStable(list, func(a, b int) bool {
		x, y := list[a], list[b]
		if ux, uy := x.offer.Availability.Usable(), y.offer.Availability.Usable(); ux != uy {
			return ux
		}
		if (x.instance != nil) != (y.instance != nil) {
			return x.instance != nil
		}
		return x.offer.Price < y.offer.Price
	})
	return list, why, nil
}

func wanted(fleets []fleet.Fleet, refs []config.EntityRef) []fleet.Fleet {
	if refs == nil {
		return fleets
	}
	var out []fleet.Fleet
	for _, ref := range refs {
		for _, f := range fleets {
			if f.Name == ref.Name {
				out = append(out, f)
			}
		}
	}
	return out
}

// existing is a share of an instance; nil with a reason when it does not fit.
func existing(req api.Requirements, p config.Profile, f fleet.Fleet, inst *instance.Instance) (*candidate, string) {
	if !inst.Live() || inst.Blocks == 0 || inst.Data.Provisioning == nil || !selected(p.Instances, f, inst) {
		return nil, "not ready"
	}
	jpd := inst.Data.Provisioning
	o := api.InstanceOffer{
		Backend: jpd.Backend, Instance: jpd.InstanceType, Region: jpd.Region, Price: jpd.Price, BackendData: map[string]any{},
		Availability: api.Idle, InstanceRuntime: api.RuntimeShim, TotalBlocks: inst.Blocks,
	}
	free := inst.Blocks - inst.Busy()
	usable := inst.Available() && free > 0
	look := free
	if !usable {
		o.Availability, look = api.Busy, inst.Blocks
	}
	n, why := scheduler.Blocks(req, p.ProfileParams, o, inst.Blocks, look)
	if n == 0 && usable && free < inst.Blocks {
		if n, _ = scheduler.Blocks(req, p.ProfileParams, o, inst.Blocks, inst.Blocks); n > 0 {
			o.Availability = api.Busy
		}
	}
	if n == 0 {
		return nil, why
	}
	o.Blocks = n
	o.Instance.Resources = scheduler.Share(o.Instance.Resources, n, inst.Blocks)
	return &candidate{fleet: f, instance: inst, offer: o, blocks: n}, ""
}

func selected(sel []config.InstanceSelector, f fleet.Fleet, inst *instance.Instance) bool {
	if len(sel) == 0 {
		return true
	}
	for _, s := range sel {
		switch {
		case s.Name != nil && *s.Name == inst.Name,
			s.Hostname != nil && inst.Data.Provisioning.Hostname != nil && *s.Hostname == *inst.Data.Provisioning.Hostname,
			s.Fleet != nil && s.Fleet.Name == f.Name && s.Instance == inst.Num:
			return true
		}
	}
	return false
}

// creatable lists what backends could provide within the fleets' limits.
func (s *Service) creatable(ctx context.Context, projectID string, req api.Requirements, p config.Profile, fleets []fleet.Fleet, instances []instance.Instance) ([]candidate, error) {
	live := map[string]int{}
	for i := range instances {
		if instances[i].Status != api.InstanceTerminated {
			live[instances[i].FleetID]++
		}
	}
	offers, err := s.Catalog.Offers(ctx, projectID)
	if err != nil {
		return nil, err
	}
	var list []candidate
	for _, f := range fleets {
		nodes := f.Spec.Configuration.Nodes
		if nodes == nil || nodes.Max != nil && live[f.ID] >= *nodes.Max {
			continue
		}
		for _, o := range offers {
			ao := fleet.ToAPI(o)
			if scheduler.Fits(req, p.ProfileParams, ao) != "" || !f.Allows(ao) {
				continue
			}
			ao.Blocks, ao.TotalBlocks = 1, 1
			list = append(list, candidate{fleet: f, offer: ao, blocks: 1})
		}
	}
	return list, nil
}

// claim takes the instance for the job in one transaction.
func (s *Service) claim(ctx context.Context, it engine.Item, r Run, j Job, c candidate) error {
	err := s.DB.Write(ctx, func(tx *store.Tx) error {
		if err := it.Fence.Check(ctx, tx); err != nil {
			return err
		}
		job, d := j, JobDecision{}
		text := ""
		if c.instance != nil {
			inst, err := s.Instances.Claim(ctx, tx, instance.Claim{InstanceID: c.instance.ID, JobID: j.ID, Blocks: c.blocks})
			if err != nil {
				return err
			}
			job.InstanceID = inst.ID
			job.Data.Provisioning = inst.Data.Provisioning
			text = fmt.Sprintf("Job assigned to instance. Instance blocks: %d/%d busy", inst.Busy(), inst.Blocks)
		} else {
			inst, err := s.Instances.Create(ctx, tx, instance.Want{
				ProjectID: r.ProjectID, FleetID: c.fleet.ID, FleetName: c.fleet.Name, Offer: c.offer, JobID: j.ID, Blocks: 1, IdleSeconds: idle(r, c.fleet),
			})
			if err != nil {
				return err
			}
			job.InstanceID = inst.ID
			job.Data.Tried = append(job.Data.Tried, offerKey(c.offer))
			text = "Instance created for job. Instance status: PENDING"
		}
		job.Data.Runtime = runtimeData(c)
		job.Data.PlacedAt, job.Data.ProcessedAt = time.Now(), time.Now()
		d.Job = job
		d.to(api.JobProvisioning)
		if err := d.Job.update(ctx, tx); err != nil {
			return err
		}
		for _, t := range append([]string{text}, d.Events...) {
			if err := s.recordJob(ctx, tx, d.Job, t); err != nil {
				return err
			}
		}
		if err := s.chosen(ctx, tx, r, c.fleet); err != nil {
			return err
		}
		tx.OnCommit(func() {
			s.Engine.Wake(JobKind, j.ID)
			s.changed(r.ID)
		})
		return nil
	})
	return err
}

// chosen remembers the fleet of the run.
func (s *Service) chosen(ctx context.Context, tx *store.Tx, r Run, f fleet.Fleet) error {
	if r.Data.FleetID == f.ID {
		return nil
	}
	now, err := getRun(ctx, tx, "id = $1", r.ID)
	if err != nil {
		return err
	}
	now.Data.FleetID, now.Data.FleetName = f.ID, f.Name
	return now.update(ctx, tx)
}

// idle is how long a new instance is kept without jobs: the shorter of run and fleet.
func idle(r Run, f fleet.Fleet) int64 {
	seconds := int64(300)
	if d := r.Data.Spec.Merged().IdleDuration; d != nil {
		seconds = int64(*d)
	}
	if d := f.Spec.Configuration.IdleDuration; d != nil && (seconds < 0 || *d >= 0 && int64(*d) < seconds) {
		seconds = int64(*d)
	}
	return seconds
}

// runtimeData says what share the job gets.
func runtimeData(c candidate) *api.JobRuntimeData {
	o := c.offer
	d := &api.JobRuntimeData{NetworkMode: api.NetworkHost, VolumeNames: []string{}, Offer: &o}
	if c.instance != nil && c.blocks < c.instance.Blocks {
		res := o.Instance.Resources
		gpus, cpus, mem := len(res.Gpus), float64(res.CPUs), config.Memory(float64(res.MemoryMiB)/1024)
		d.NetworkMode, d.GPU, d.CPU, d.Memory = api.NetworkBridge, &gpus, &cpus, &mem
	}
	if string(o.Backend) == "local" {
		d.NetworkMode = api.NetworkBridge // several servers and users share this machine's ports
	}
	return d
}
