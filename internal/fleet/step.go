package fleet

import (
	"time"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/instance"
	"dstack/internal/scheduler"
)

// Snapshot is all that Step looks at.
type Snapshot struct {
	Fleet     Fleet
	Instances []instance.Instance // those that are not deleted, by number
}

// Decision is what should happen to a fleet now.
type Decision struct {
	Fleet     Fleet
	Changed   bool
	Terminate []Termination
	Delete    []instance.Instance // rows of instances that ended
	Create    int                 // nodes to add
	Events    []string
	Again     time.Time
}

// Termination is an instance that has to go.
type Termination struct {
	Instance instance.Instance
	Reason   api.InstanceTerminationReason
	Msg      string
}

// consolidateAfter spaces the attempts to bring a fleet to its size; the last repeats
// (lifecycle 11.1).
var consolidateAfter = [...]time.Duration{time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute}

// maxConsolidations is how often in a row a fleet is brought to its size before a person has
// to look.
const maxConsolidations = 15

// Step decides what should happen to one fleet now. It reads nothing but its arguments.
func Step(now time.Time, s Snapshot) Decision {
	d := Decision{Fleet: s.Fleet}
	switch {
	case !s.Fleet.steps():
	case s.Fleet.Status == api.FleetTerminating:
		d.finish(s)
	default:
		d.consolidate(now, s)
	}
	return d
}

// steps says that something may have to happen to a fleet, as its instances are: not to one of hosts of the
// user, which is as they say.
func (f *Fleet) steps() bool {
	switch {
	case f.Deleted:
		return false
	case f.Status == api.FleetTerminating:
		return true
	case f.Damage != "": // what it is to be is not known
		return false
	}
	return f.Spec.Configuration.Nodes != nil && f.Status == api.FleetActive
}

// finish ends a fleet with its last instance, which wakes it.
func (d *Decision) finish(s Snapshot) {
	if len(s.Instances) == 0 {
		d.Fleet.Status, d.Fleet.Deleted, d.Changed = api.FleetTerminated, true, true
		d.Events = []string{"Fleet status changed TERMINATING -> TERMINATED"}
		return
	}
	for _, inst := range s.Instances { // the deletion has asked for the end of those that there were
		if inst.Stays() {
			d.Terminate = append(d.Terminate, Termination{inst, api.InstanceTerminatedByUser, ""})
		}
	}
	d.Changed = d.Terminate != nil
}

// consolidate brings the number and the kind of a fleet's instances to what its
// configuration says.
func (d *Decision) consolidate(now time.Time, s Snapshot) {
	d.bootstrapFailed(now, s)
	due := !now.Before(s.Fleet.nextConsolidation())
	nodes := s.Fleet.Spec.Configuration.Nodes
	active := 0
	var idle []instance.Instance
	for _, inst := range s.Instances {
		switch {
		case inst.Status == api.InstanceTerminated:
			d.Delete = append(d.Delete, inst)
		case !inst.Live(): // on its way out, however long its cloud takes
		case mismatch(s.Fleet, inst):
			d.Terminate = append(d.Terminate, Termination{inst, api.InstanceFleetSpecMismatch, "Instance does not match fleet spec"})
		default:
			active++
			if inst.Status == api.InstanceIdle {
				idle = append(idle, inst)
			}
		}
	}
	if active < nodes.Min {
		d.Create = nodes.Min - active
	} else if nodes.Max != nil {
		for n := len(idle) - 1; n >= 0 && active > *nodes.Max; n-- {
			d.Terminate = append(d.Terminate, Termination{idle[n], api.InstanceMaxInstancesLimit, "Fleet has too many instances"})
			active--
		}
	}
	stopped := s.Fleet.Attempts >= maxConsolidations
	if stopped { // an update of the fleet starts anew
		d.Terminate, d.Create = nil, 0
	}
	needed := d.Create > 0 || d.Terminate != nil // to tidy up what has ended is no attempt
	switch {
	case !needed && d.Delete == nil && (stopped || s.Fleet.Attempts == 0):
		return
	case !due:
		d.Terminate, d.Delete, d.Create = nil, nil, 0
		d.Again = s.Fleet.nextConsolidation()
		return
	case stopped:
	case !needed:
		d.Fleet.Attempts = 0
	default:
		if d.Fleet.Attempts++; d.Fleet.Attempts == maxConsolidations {
			d.Events = append(d.Events, "Fleet consolidation stopped after 15 attempts. Update the fleet to resume")
		}
	}
	d.Fleet.ConsolidatedAt, d.Changed = now, true
	d.Again = d.Fleet.nextConsolidation()
}

// bootstrapFailed ends what waits for the first instance of a cluster when that one got no
// offer and nothing else stands (lifecycle 11.4).
func (d *Decision) bootstrapFailed(_ time.Time, s Snapshot) {
	if !s.Fleet.Cluster() || s.Fleet.Spec.Configuration.Nodes.Min > 0 || len(s.Instances) == 0 {
		return
	}
	if first := s.Instances[0]; first.Status != api.InstanceTerminated || first.Data.Reason != api.InstanceNoOffers {
		return
	}
	for _, inst := range s.Instances[1:] {
		if inst.Live() && inst.Data.Offer != nil {
			return
		}
	}
	for _, inst := range s.Instances[1:] {
		if inst.Live() {
			d.Terminate = append(d.Terminate, Termination{inst, api.InstanceMasterFailed, "Master instance failed to start"})
		}
	}
}

// nextConsolidation is the earliest time for the next attempt.
func (f Fleet) nextConsolidation() time.Time {
	if f.Attempts == 0 && f.ConsolidatedAt.IsZero() {
		return f.CreatedAt
	}
	return f.ConsolidatedAt.Add(consolidateAfter[min(f.Attempts, len(consolidateAfter)-1)])
}

// mismatch says that an instance without jobs is not what the fleet asks for any more.
// Instances with jobs are left alone until those have ended.
func mismatch(f Fleet, inst instance.Instance) bool {
	if len(inst.Assignments) > 0 || inst.Data.Offer == nil || inst.Status != api.InstanceIdle && inst.Status != api.InstanceProvisioning {
		return false
	}
	ask, o := f.Ask(), *inst.Data.Offer
	o.Availability = api.Idle // it exists: what its backend could do with offers is not stored
	return scheduler.Fits(ask.Requirements, ask.Profile, o) != ""
}

// Cluster says that the fleet's instances are to reach each other.
func (f Fleet) Cluster() bool {
	p := f.Spec.Configuration.Placement
	return p != nil && *p == "cluster"
}

// Ask is what the fleet's configuration says of its instances (lifecycle 6.1).
func (f Fleet) Ask() scheduler.Ask {
	c := &f.Spec.Configuration
	p := f.Spec.Merged()
	a := scheduler.Ask{Profile: p.ProfileParams}
	a.Requirements = api.Requirements{Resources: unconstrained(c.Resources), MaxPrice: p.MaxPrice, Reservation: p.Reservation, BackendOptions: p.BackendOptions}
	multinode := f.Cluster()
	a.Requirements.Multinode = &multinode
	spot := false
	switch {
	case p.SpotPolicy == nil || *p.SpotPolicy == "on-demand":
		a.Requirements.Spot = &spot
	case *p.SpotPolicy == "spot":
		spot = true
		a.Requirements.Spot = &spot
	}
	if p.SpotPolicy == nil {
		onDemand := "on-demand"
		a.Profile.SpotPolicy = &onDemand
	}
	return a
}

// unconstrained are the resources of a fleet, anything where it names none.
func unconstrained(r *config.Resources) config.Resources {
	if r != nil {
		return *r
	}
	return config.Resources{CPU: config.CPU{Count: config.Between(1, -1)}, Memory: config.AtLeast(0), GPU: &config.GPU{Count: config.Between(0, -1)}}
}

// Supply is the fleet in the scheduler's words; live is how many instances it has.
func (f Fleet) Supply(project string, live int) scheduler.Fleet {
	out := scheduler.Fleet{ID: f.ID, Name: f.Name, Project: project, Cluster: f.Cluster(), Hosts: f.SSH(), Ask: f.Ask()}
	if nodes := f.Spec.Configuration.Nodes; nodes != nil {
		out.Room = -1
		if nodes.Max != nil {
			out.Room = max(0, *nodes.Max-live)
		}
	}
	return out
}
