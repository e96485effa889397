package run

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"dstack/internal/api"
	"dstack/internal/jobspec"
)

// A replica is the latest attempt of one of a service's replicas, and what it counts as.
type replica struct {
	Job
	state replicaIs
	// stale says that the replica is of an earlier deployment, which was another one.
	stale bool
	// retryAt is when one that failed is started again.
	retryAt time.Time
}

type replicaIs int

const (
	dropped replicaIs = iota // it has ended, or is about to, and is not missed
	failing                  // it has ended by itself and is started again: it keeps its place
	waiting
	starting
	unready // it runs and takes no requests yet
	serving
)

// active says that the replica has jobs that go on.
func (r *replica) active() bool { return r.state >= waiting }

// replicasOf puts the replicas of a service in the words of lifecycle 15.2.
func (d *RunDecision) replicasOf(s RunSnapshot) []replica {
	var list []replica
	for _, j := range latestOf(s.Jobs) {
		r := replica{Job: j, state: dropped}
		switch {
		case j.Status == api.JobSubmitted:
			r.state = waiting
		case j.Status == api.JobProvisioning, j.Status == api.JobPulling:
			r.state = starting
		case j.Status == api.JobRunning && j.Data.Ready:
			r.state = serving
		case j.Status == api.JobRunning:
			r.state = unready
		}
		if j.Data.Deployment != s.Run.Data.Deployment {
			r.stale = !sameJob(s.Images, s.Run, j)
			if !r.stale && r.active() {
				d.Relabel = append(d.Relabel, j)
			}
		}
		list = append(list, r)
	}
	return list
}

// sameJob says that a replica would be started again as it is.
func sameJob(im jobspec.Images, r Run, j Job) bool {
	specs, err := im.Replica(r.Data.Spec, r.Name, j.Data.Spec.ReplicaGroup, j.Replica)
	if err != nil || len(specs) != 1 {
		return false
	}
	now, was := specs[0], j.Data.Spec
	if now.Requirements.Resources.CPU.Arch == nil {
		was.Requirements.Resources.CPU.Arch = nil
	}
	return same(now, was)
}

// groupPlan is what a service's group of replicas needs.
type groupPlan struct {
	add   int       // replicas
	stop  []replica // to be scaled down
	retry []replica // failed ones whose time may come
}

// planGroup decides over the replicas of one group, of which there shall be want.
func planGroup(list []replica, want int) groupPlan {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b replica) int { // the most important first
		if a.stale != b.stale {
			if b.stale {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.state, a.state), cmp.Compare(a.Replica, b.Replica))
	})
	var active, failed []replica
	stale, serves, behind := 0, 0, 0
	for _, r := range list {
		switch {
		case r.active():
			active = append(active, r)
			if r.state == serving {
				serves++
			}
			if r.stale {
				stale++
				if r.state != serving {
					behind++
				}
			}
		case r.state == failing && !r.stale:
			failed = append(failed, r)
		}
	}
	if stale == 0 {
		keep := min(len(failed), max(0, want-len(active)))
		return groupPlan{
			add:   max(0, want-len(active)-keep),
			stop:  active[min(want, len(active)):],
			retry: failed[:keep],
		}
	}
	// A rollout: one replica more than wanted, and those that take requests stay until as many
	// new ones do.
	keep := min(len(failed), max(0, want+1-len(active)))
	stop := min(behind+max(0, serves-want), len(active))
	return groupPlan{add: max(0, want+1-len(active)-keep), stop: active[len(active)-stop:], retry: failed[:keep]}
}

// shape decides over the replicas of a service that is alive: how many there shall be, which
// are replaced, which end.
func (d *RunDecision) shape(now time.Time, s RunSnapshot, list []replica) {
	groups := jobspec.Groups(s.Run.Data.Spec.Configuration)
	counts := d.scale(now, s, groups)
	byGroup := map[string][]replica{}
	for _, r := range list {
		byGroup[r.Data.Spec.ReplicaGroup] = append(byGroup[r.Data.Spec.ReplicaGroup], r)
	}
	for _, g := range groups {
		p := planGroup(byGroup[g.Name], counts[g.Name])
		delete(byGroup, g.Name)
		d.scaleDown(p.stop)
		for _, r := range p.retry {
			d.restart(now, s, r)
		}
		d.fill(now, s, list, g.Name, p.add)
	}
	for _, removed := range byGroup {
		d.scaleDown(slices.DeleteFunc(removed, func(r replica) bool { return !r.active() }))
	}
	slices.SortStableFunc(d.Ends, func(a, b JobEnd) int { return cmp.Compare(a.Job.Replica, b.Job.Replica) })
}

// scale decides how many replicas each group shall have.
func (d *RunDecision) scale(now time.Time, s RunSnapshot, groups []jobspec.Group) map[string]int {
	counts := map[string]int{}
	changed := false
	scaled := s.Run.Data.ScaledAt
	if scaled.IsZero() {
		scaled = s.Run.SubmittedAt
	}
	for _, g := range groups {
		previous, known := s.Run.Data.Desired[g.Name]
		if !known {
			previous = g.Min
		}
		counts[g.Name] = desired(now, g, previous, scaled, s.Load)
		if g.Scaling != nil && counts[g.Name] != previous {
			changed = true
		}
		if g.Scaling != nil && (counts[g.Name] > g.Min || s.Load.Requests[window(g.Scaling)] > 0) {
			d.sooner(now.Add(scaleAgain)) // time alone may change it
		}
	}
	if changed {
		d.Run.Data.ScaledAt = now
	}
	if jobspec.Scales(s.Run.Data.Spec.Configuration.Service) && !maps.Equal(counts, s.Run.Data.Desired) {
		d.Run.Data.Desired = counts
		d.Changed = true
	}
	return counts
}

func (d *RunDecision) scaleDown(list []replica) {
	for _, r := range list {
		d.Ends = append(d.Ends, JobEnd{r.Job, api.JobScaledDown, ""})
		d.Relabel = slices.DeleteFunc(d.Relabel, func(j Job) bool { return j.ID == r.ID })
	}
}

// restart starts a replica that failed again, when its time has come.
func (d *RunDecision) restart(now time.Time, s RunSnapshot, r replica) {
	switch {
	case r.retryAt.IsZero(): // it is still ending, and wakes the run
	case now.Before(r.retryAt):
		d.sooner(r.retryAt)
	default:
		d.Origin = "retry"
		d.again(s, r.Job)
	}
}

// fill adds replicas to a group: numbers that were given up come first.
func (d *RunDecision) fill(now time.Time, s RunSnapshot, list []replica, group string, n int) {
	if n <= 0 {
		return
	}
	if d.Origin == "" {
		d.Origin = "retry"
	}
	next := 0
	for _, r := range list {
		next = max(next, r.Replica+1)
	}
	for _, one := range d.New {
		next = max(next, one.Replica+1)
	}
	for _, r := range list {
		free := r.state == dropped && r.Finished() && !slices.ContainsFunc(d.New, func(one NewJob) bool { return one.Replica == r.Replica })
		if n > 0 && free {
			d.New = append(d.New, NewJob{Replica: r.Replica, Attempt: r.Attempt + 1, WaitFrom: s.waitFrom(now, r.Job), Group: group})
			n--
		}
	}
	for ; n > 0; n-- {
		d.New = append(d.New, NewJob{Replica: next, WaitFrom: now, Group: group})
		next++
	}
}

// waitFrom is since when the next attempt of a replica has waited for capacity: those of one
// that failed wait together, one that was not wanted begins anew.
func (s *RunSnapshot) waitFrom(now time.Time, j Job) time.Time {
	if j.Data.Reason == api.JobScaledDown || j.Status == api.JobDone {
		return now
	}
	return s.Run.waitFrom(s.Jobs, j)
}

// serve decides over a service that has started (lifecycle 8.3): unlike the replicas of tasks,
// each is started again alone.
func (d *RunDecision) serve(now time.Time, s RunSnapshot) {
	list := d.replicasOf(s)
	serves := 0
	for _, r := range list {
		if r.state == serving {
			serves++
		}
	}
	var sum replicaState
	var failed []int
	for i := range list {
		r := &list[i]
		var one replicaState
		one.add(now, s, r.Job)
		switch {
		case one.failed == "" && one.retry == nil:
			sum.running += one.running
			sum.provisioning += one.provisioning
			sum.submitted += one.submitted
			sum.done += one.done
			if one.done > 0 && !r.stale { // unless all have, which ends the service
				s.failed(r)
			}
		case r.stale: // what replaces it comes anyway
		case one.failed != "" && (serves == 0 || s.proven(r.Job)):
			if sum.failed != api.RunJobFailed {
				sum.failed = one.failed
			}
		default: // others take the requests meanwhile, or it may be tried again
			s.failed(r)
			failed = append(failed, r.Replica)
		}
	}
	d.next(s, sum, failed, false)
	switch {
	case d.Run.Status == api.RunTerminating:
		d.Relabel = nil
	case d.Run.Status == api.RunPending:
		d.Relabel = nil
		if failed == nil { // there is nothing to wait for but requests
			d.Run.Data.Resubmissions = 0
		}
	default:
		d.shape(now, s, list)
	}
}

// failed says when a replica that has ended by itself is started again.
func (s *RunSnapshot) failed(r *replica) {
	r.state = failing
	if r.Finished() {
		r.retryAt = r.Data.FinishedAt.Add(s.pause(r.Job))
	}
}

// proven says that a replica has taken requests since it was last wanted: when it fails, that is
// the service's failure and not that of an attempt to enlarge or change it.
func (s *RunSnapshot) proven(of Job) bool {
	proven := false
	for _, j := range s.Jobs {
		if j.Replica != of.Replica || j.Num != of.Num {
			continue
		}
		proven = (proven || j.Data.Ready) && j.Data.Reason != api.JobScaledDown
	}
	return proven
}

// pause is how long to wait before a failed replica is started again: not at all when it has
// worked, else the longer the more often in a row it has not.
func (s *RunSnapshot) pause(of Job) time.Duration {
	n := 0
	for _, j := range s.Jobs {
		switch {
		case j.Replica != of.Replica || j.Num != of.Num:
		case j.Data.Ready || j.Data.Reason == api.JobScaledDown:
			n = 0
		default:
			n++
		}
	}
	if n == 0 {
		return 0
	}
	return resubmitAfter[min(n, len(resubmitAfter))-1]
}

// revive starts a service that waits for requests, or for its time to try again.
func (d *RunDecision) revive(now time.Time, s RunSnapshot) {
	list := d.replicasOf(s)
	d.Relabel = nil
	groups := jobspec.Groups(s.Run.Data.Spec.Configuration)
	counts := d.scale(now, s, groups)
	for _, g := range groups {
		active := 0
		for _, r := range list {
			if r.active() && r.Data.Spec.ReplicaGroup == g.Name {
				active++
			}
		}
		d.fill(now, s, list, g.Name, counts[g.Name]-active)
	}
	if d.New != nil {
		d.Origin = "new submission"
		d.to(api.RunSubmitted)
	}
}

// sooner asks for a pass at a time, unless there is one before.
func (d *RunDecision) sooner(at time.Time) {
	if d.Again.IsZero() || at.Before(d.Again) {
		d.Again = at
	}
}
