package run

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/engine"
	"dstack/internal/event"
	"dstack/internal/instance"
	"dstack/internal/store"
)

func (s *Service) reconcileJob(ctx context.Context, it engine.Item) (time.Time, error) {
	snap, err := s.loadJob(ctx, it.ID)
	switch {
	case errors.Is(err, store.ErrNotFound) && snap.Job.ID != "":
		return time.Time{}, s.orphaned(ctx, it, snap.Job)
	case errors.Is(err, store.ErrNotFound):
		return time.Time{}, s.tidy(ctx, it)
	case err != nil:
		return time.Time{}, err
	case snap.Job.Finished():
		return time.Time{}, s.tidy(ctx, it)
	case snap.Job.Data.Damage != "":
		s.Log.Error("the stored record of a job cannot be read", "job", snap.Job.ID, "run", snap.Job.RunID, "err", snap.Job.Data.Damage)
	}
	if snap.Instance == nil && snap.Job.Status != api.JobSubmitted {
		if moved, err := s.missed(ctx, it, snap.Job); moved || err != nil {
			return time.Time{}, err
		}
	}
	if p := s.Engine.Problem(JobKind, it.ID); p != nil {
		if failed, ok := errors.AsType[*sendError](p.Err); ok {
			snap.Failed = p.Attempt
			if !errors.Is(failed, store.ErrConflict) { // that of the server with itself says nothing of the host
				snap.Problem = instance.Short(failed.Error())
			}
		}
	}
	d := settleJob(time.Now(), snap)
	if d.Changed {
		if err := s.commitJob(ctx, it, &d); err != nil {
			return time.Time{}, err
		}
	}
	if d.Probe {
		s.Engine.Schedule(ProbeKind, it.ID, time.Now())
	}
	again := d.Again
	snap.Job = d.Job
	for _, e := range d.Effects {
		at, err := s.act(ctx, it, e, snap)
		if err != nil {
			return time.Time{}, err
		}
		if !at.IsZero() && (again.IsZero() || at.Before(again)) {
			again = at
		}
	}
	return again, nil
}

// settleJob takes steps until something has to be done outside of the database or nothing
// changes any more, as one decision: each transaction is one in a line.
func settleJob(now time.Time, s JobSnapshot) JobDecision {
	d := StepJob(now, s)
	for d.Effects == nil && d.Job.Status != s.Job.Status {
		s.Job = d.Job
		next := StepJob(now, s)
		if !next.Changed && next.Effects == nil {
			break
		}
		next.Changed, next.Events = true, append(d.Events, next.Events...)
		d = next
	}
	return d
}

func (s *Service) loadJob(ctx context.Context, id string) (JobSnapshot, error) {
	q := s.DB.Read()
	j, err := s.rows.job(ctx, q, id)
	if err != nil {
		return JobSnapshot{}, err
	}
	snap := JobSnapshot{Job: j, LostAfter: s.LostAfter, Began: s.started}
	if j.InstanceID != "" {
		inst, err := s.Instances.Get(ctx, q, j.InstanceID)
		if err == nil {
			snap.Instance = &inst
		} else if !errors.Is(err, store.ErrNotFound) {
			return JobSnapshot{}, err
		}
		snap.Reachable = snap.Instance != nil && s.Hosts.Reachable(snap.Instance)
	}
	switch j.Status {
	case api.JobRunning:
		return snap, s.loadRunning(ctx, q, &snap)
	case api.JobTerminating:
		snap.Serving = s.Serving(j.ID)
	case api.JobProvisioning:
		if snap.Instance != nil && problem(j, snap.Instance) != "" {
			s.Engine.Tell(watchTopic, j.RunID) // see booting: the job itself does not change
		}
		if j.Data.Spec.JobsPerReplica > 1 {
			return snap, s.loadPeers(ctx, q, &snap)
		}
		if j.Data.Spec.ServicePort != nil {
			return snap, s.loadLack(ctx, q, &snap)
		}
	}
	return snap, nil
}

// loadRunning adds what the policies of a running job look at.
func (s *Service) loadRunning(ctx context.Context, q store.Querier, snap *JobSnapshot) error {
	r, err := s.rows.run(ctx, q, snap.Job.RunID)
	if err != nil {
		return err
	}
	if dev := r.Data.Spec.Configuration.DevEnvironment; dev != nil && dev.InactivityDuration != nil {
		snap.Inactivity = int64(*dev.InactivityDuration)
	}
	if p := snap.Job.Data.Spec.UtilizationPolicy; p != nil {
		begin := time.Now().Add(-agentapi.Seconds(int64(p.TimeWindow)))
		if snap.Idle, err = s.Metrics.Unused(ctx, q, snap.Job.ID, begin, p.MinGPUUtilization); err != nil {
			return err
		}
	}
	return nil
}

// loadPeers adds the other nodes of the job's replica.
func (s *Service) loadPeers(ctx context.Context, q store.Querier, snap *JobSnapshot) error {
	r, err := s.rows.run(ctx, q, snap.Job.RunID)
	if err != nil {
		return err
	}
	if o := r.Data.Spec.Merged().StartupOrder; o != nil {
		snap.Order = *o
	}
	peers, instances, err := s.nodes(ctx, q, snap.Job)
	if err != nil {
		return err
	}
	for _, j := range peers {
		if j.ID == snap.Job.ID {
			continue
		}
		p := Peer{Num: j.Num, Status: j.Status}
		if inst := instances[j.InstanceID]; inst != nil {
			p.Until = bootBy(j, *inst)
			if lacksGPUs(j, inst) {
				p.Lack = inst.Name + ": " + inst.Lack()
			}
			p.Ready = s.Hosts.Reachable(inst) && inst.Data.Provisioning != nil && inst.Status != api.InstancePending && p.Lack == ""
		}
		snap.Peers = append(snap.Peers, p)
	}
	return nil
}

// nodes are the latest attempts of a job's replica by number, with their instances by id.
func (s *Service) nodes(ctx context.Context, q store.Querier, of Job) ([]Job, map[string]*instance.Instance, error) {
	all, err := s.rows.jobsOf(ctx, q, of.RunID)
	if err != nil {
		return nil, nil, err
	}
	var peers []Job
	var ids []string
	for _, j := range latestOf(all[of.RunID]) {
		if j.Replica == of.Replica {
			peers = append(peers, j)
			if j.InstanceID != "" {
				ids = append(ids, j.InstanceID)
			}
		}
	}
	list, err := instance.ByID(ctx, q, ids)
	byID := map[string]*instance.Instance{}
	for _, inst := range list {
		byID[inst.ID] = inst
	}
	return peers, byID, err
}

// commitJob stores a decision and what the host answered meanwhile, on which it rests.
func (s *Service) commitJob(ctx context.Context, it engine.Item, d *JobDecision, said ...agentapi.Task) error {
	return s.DB.Write(ctx, func(tx *store.Tx) error {
		if err := it.Fence.Check(ctx, tx); err != nil {
			return err
		}
		j := d.Job
		j.Data.ProcessedAt = time.Now()
		if err := s.rows.updateJob(ctx, tx, &j); err != nil {
			return err
		}
		for _, t := range said {
			last, err := s.see(ctx, tx, j.InstanceID, t)
			if err != nil {
				return err
			}
			if !last { // more is known than the decision rests on
				tx.OnCommit(func() { s.Engine.Wake(JobKind, j.ID) })
			}
		}
		if d.Share != (share{}) {
			if err := s.Instances.Share(ctx, tx, j.InstanceID, j.ID, d.Share.blocks, d.Share.of); err != nil {
				return err
			}
		}
		if d.Release {
			if err := s.release(ctx, tx, j); err != nil {
				return err
			}
		}
		for _, text := range d.Events {
			if err := s.recordJob(ctx, tx, j, text); err != nil {
				return err
			}
		}
		tx.OnCommit(func() {
			d.Job = j
			s.changed(j.RunID)
		})
		return s.wakePeers(ctx, tx, j)
	})
}

// wakePeers looks at the other nodes of a replica, or the other replicas of a service, that may wait
// for this one.
func (s *Service) wakePeers(ctx context.Context, tx *store.Tx, j Job) error {
	replica := j.Replica
	switch {
	case j.Data.Spec.ServicePort != nil:
		r, err := s.rows.run(ctx, tx, j.RunID)
		if errors.Is(err, store.ErrNotFound) {
			return nil // nobody is left to end the others but themselves: see orphaned
		}
		if err != nil || !needsAddresses(r) {
			return err
		}
		replica = -1
	case j.Data.Spec.JobsPerReplica <= 1:
		return nil
	}
	rows, err := tx.QueryContext(ctx, `SELECT id FROM job WHERE run_id = $1 AND (replica_num = $2 OR $2 < 0) AND status = 'provisioning' AND id <> $3`, j.RunID, replica, j.ID)
	var ids []string
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var id string
		err := rows.Scan(&id)
		ids = append(ids, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("list the jobs that may wait for another: %w", err)
	}
	tx.OnCommit(func() { s.Engine.Wake(JobKind, ids...) })
	return nil
}

func (s *Service) release(ctx context.Context, tx *store.Tx, j Job) error {
	inst, err := s.Instances.Release(ctx, tx, j.InstanceID, j.ID)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.recordJob(ctx, tx, j, fmt.Sprintf("Job unassigned from instance. Instance blocks: %d/%d busy", inst.Busy(), max(1, inst.Blocks)), inst.Target())
}

// recordJob records an event of a job, and of what else it is about.
func (s *Service) recordJob(ctx context.Context, tx *store.Tx, j Job, text string, with ...event.Target) error {
	job := event.Target{Type: api.EventTargetJob, ID: j.ID, Name: j.Data.Spec.JobName, ParentID: j.RunID}
	return event.Record(ctx, tx, event.Event{Message: text, ProjectID: j.ProjectID, Targets: append([]event.Target{job}, with...)})
}

func jobEvent(from, to api.JobStatus, data JobData) string {
	text := fmt.Sprintf("Job status changed %s -> %s", strings.ToUpper(string(from)), strings.ToUpper(string(to)))
	if to == api.JobTerminating && data.Reason != "" {
		text += ". Termination reason: " + strings.ToUpper(string(data.Reason))
		if data.Message != "" {
			text += " (" + data.Message + ")"
		}
	}
	return text
}

func (s *Service) failJob(ctx context.Context, it engine.Item, j Job, reason api.JobTerminationReason, msg string) error {
	d := JobDecision{Job: j}
	d.end(time.Now(), reason, msg)
	if err := s.commitJob(ctx, it, &d); err != nil {
		return err
	}
	s.Engine.Wake(JobKind, j.ID)
	return nil
}

// endJob begins the end of an unfinished job, or turns one that is under way into an abort.
func (s *Service) endJob(ctx context.Context, tx *store.Tx, j Job, reason api.JobTerminationReason, msg string) error {
	abort := reason == api.JobAbortedByUser
	if j.Finished() || j.Status == api.JobTerminating && (!abort || j.Data.Abort) {
		return nil
	}
	d := JobDecision{Job: j}
	if j.Status == api.JobTerminating {
		d.Job.Data.Reason = reason
	} else {
		d.end(time.Now(), reason, msg)
	}
	d.Job.Data.Abort = abort
	d.Job.Data.ProcessedAt = time.Now()
	if err := s.rows.updateJob(ctx, tx, &d.Job); err != nil {
		return err
	}
	for _, text := range d.Events {
		if err := s.recordJob(ctx, tx, d.Job, text); err != nil {
			return err
		}
	}
	tx.OnCommit(func() {
		s.Engine.Wake(JobKind, j.ID)
		if j.Status == api.JobSubmitted { // what was kept for it is for those behind it
			s.Engine.Wake(QueueKind, j.ProjectID)
		}
	})
	return nil
}
