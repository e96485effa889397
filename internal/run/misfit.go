package run

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/engine"
	"dstack/internal/instance"
	"dstack/internal/store"
)

// MisfitKind are jobs that contradict other rows. There are none unless somebody edited the database, so nothing is
// looked at but for the list.
const MisfitKind = "misfit"

// Rows that make sense each for itself may contradict each other once somebody has edited some: a job may go on of which
// the run is over, that another attempt has replaced, or that is elsewhere than what it holds. Nobody could end such a
// job, and its machine would be paid for ever. Where it is and what it holds is put right; a job that nobody
// follows is ended.

// misfits are jobs that have not ended and do not fit.
const misfits = `
FROM   job j LEFT JOIN run r ON r.id = j.run_id LEFT JOIN assignment a ON a.job_id = j.id
WHERE  j.status NOT IN ('terminated', 'aborted', 'failed', 'done')
  AND  (a.instance_id <> j.instance_id
   OR   j.status = 'submitted' AND j.instance_id <> ''
   OR   j.status NOT IN ('submitted', 'terminating') AND a.job_id IS NULL
   OR   j.status <> 'terminating' AND (r.id IS NULL OR r.status IN ('terminated', 'failed', 'done') OR ` + replaced + `))`

// replaced says that there is a later attempt.
const replaced = `EXISTS (SELECT 1 FROM job n WHERE n.run_id = j.run_id AND n.replica_num = j.replica_num AND n.job_num = j.job_num AND n.submission_num > j.submission_num)`

const listMisfits = `SELECT j.id` + misfits

// getMisfit says where a job holds blocks, and the status of its run, "" for none of each.
const getMisfit = `SELECT COALESCE(a.instance_id, ''), COALESCE(r.status, ''), ` + replaced + misfits + ` AND j.id = $1`

// reconcileMisfit has a job fit again, or ends it.
func (s *Service) reconcileMisfit(ctx context.Context, it engine.Item) (time.Time, error) {
	var held string
	var status api.RunStatus
	var replaced bool
	err := s.DB.Read().QueryRowContext(ctx, getMisfit, it.ID).Scan(&held, &status, &replaced)
	if errors.Is(err, sql.ErrNoRows) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("read what a job should fit: %w", err)
	}
	j, err := s.rows.job(ctx, s.DB.Read(), it.ID)
	if err != nil {
		return time.Time{}, store.DespiteDamage(err)
	}
	placed := j.Status != api.JobSubmitted || j.InstanceID != "" || held != ""
	if placed && held != j.InstanceID || j.Status == api.JobSubmitted && j.InstanceID != "" {
		// First, so that it ends where it runs.
		if moved, err := s.settle(ctx, it, j, held); moved || err != nil {
			return time.Time{}, err
		}
	}
	switch {
	case j.Status == api.JobTerminating:
		return time.Time{}, nil
	case status == "":
		return time.Time{}, s.orphaned(ctx, it, j)
	case status.Finished():
		return time.Time{}, s.endMisfit(ctx, it, j, "The run is over")
	case replaced:
		return time.Time{}, s.endMisfit(ctx, it, j, "Another attempt has replaced this one")
	}
	return time.Time{}, nil
}

// endMisfit ends a job that nobody follows.
func (s *Service) endMisfit(ctx context.Context, it engine.Item, j Job, why string) error {
	err := s.failJob(ctx, it, j, api.JobTerminatedByServer, why)
	if err == nil {
		s.Log.Error("a job goes on that nobody follows: it is ended", "job", j.ID, "run", j.RunID, "why", why)
	}
	return err
}

// settle has a job be where it holds blocks, and hold them where it is; moved says that something was put right. Of the
// two that differ that is believed which fits the machine that the job was given.
func (s *Service) settle(ctx context.Context, it engine.Item, j Job, held string) (moved bool, err error) {
	there, err := s.existing(ctx, j.InstanceID)
	if err != nil {
		return false, err
	}
	at, err := s.existing(ctx, held)
	if err != nil {
		return false, err
	}
	if j.Status == api.JobSubmitted && j.Data.PlacedAt.IsZero() { // nothing was ever begun for it
		there, at = nil, nil
	}
	d := JobDecision{Job: j}
	switch {
	case there != nil && (at == nil || j.runsOn(there)):
	case at != nil:
		d.Job.InstanceID = at.ID
	case j.Status == api.JobSubmitted:
		d.Job.InstanceID = "" // it waits like others
	case held == "":
		return false, nil // what it was on is gone: its own look ends it
	}
	switch {
	case j.Status != api.JobSubmitted || d.Job.InstanceID == "":
	case j.Data.Sent: // what its host says of it tells the rest
		d.to(api.JobPulling)
	default:
		d.to(api.JobProvisioning)
	}
	d.Events = append(d.Events, "The job was said to be elsewhere than what it holds. It is put right")
	err = s.commitSettled(ctx, it, j, d, held, there != nil || at != nil)
	if errors.Is(err, instance.ErrNoRoom) {
		if err = s.clear(ctx, it, d.Job.InstanceID); err == nil {
			err = s.commitSettled(ctx, it, j, d, held, true)
		}
	}
	if errors.Is(err, instance.ErrNoRoom) {
		return true, s.evict(ctx, it, j, held)
	}
	if err != nil {
		return true, err
	}
	s.Log.Error("a job is elsewhere than what it holds: put right", "job", j.ID, "run", j.RunID, "said", j.InstanceID, "held", held, "is", d.Job.InstanceID)
	if d.Job.InstanceID == "" {
		return true, nil
	}
	return true, s.catchUp(ctx, d.Job)
}

// commitSettled stores where a job is, and that it holds blocks there and nowhere else.
func (s *Service) commitSettled(ctx context.Context, it engine.Item, was Job, d JobDecision, held string, holds bool) error {
	return s.DB.Write(ctx, func(tx *store.Tx) error {
		if err := it.Fence.Check(ctx, tx); err != nil {
			return err
		}
		j := d.Job
		if j.InstanceID != was.InstanceID || j.Status != was.Status {
			if err := s.rows.updateJob(ctx, tx, &j); err != nil {
				return err
			}
		}
		for _, text := range d.Events {
			if err := s.recordJob(ctx, tx, j, text); err != nil {
				return err
			}
		}
		tx.OnCommit(func() {
			s.Engine.Wake(JobKind, j.ID)
			s.changed(j.RunID)
		})
		if !holds {
			return s.unhold(ctx, tx, held, j.ID)
		}
		_, err := s.Instances.Rehold(ctx, tx, instance.Claim{InstanceID: j.InstanceID, JobID: j.ID, RunID: j.RunID, Blocks: j.blocks()})
		return err
	})
}

// clear gives back what jobs hold of an instance that are over or not there.
func (s *Service) clear(ctx context.Context, it engine.Item, instanceID string) error {
	list, err := listStrays(ctx, s.DB.Read(), ` AND a.instance_id = $1 AND (j.id IS NULL OR j.status IN ('terminated', 'aborted', 'failed', 'done'))`, instanceID)
	for _, v := range list { // by hand: one or two
		if err := s.tidy(ctx, engine.Item{ID: v.job, Fence: it.Fence}); err != nil {
			return err
		}
	}
	return err
}

// evict ends a job of whose instance others hold what it has lost.
func (s *Service) evict(ctx context.Context, it engine.Item, j Job, held string) error {
	if j.Status != api.JobTerminating {
		if err := s.endMisfit(ctx, it, j, "It holds no part of its instance any more, which others use"); err != nil {
			return err
		}
	}
	return s.DB.Write(ctx, func(tx *store.Tx) error {
		if err := it.Fence.Check(ctx, tx); err != nil {
			return err
		}
		return s.unhold(ctx, tx, held, j.ID)
	})
}

// unhold gives back what a job holds of an instance, which may be gone, "" for none.
func (s *Service) unhold(ctx context.Context, tx *store.Tx, instanceID, jobID string) error {
	if instanceID == "" {
		return nil
	}
	_, err := s.Instances.Release(ctx, tx, instanceID, jobID)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

// missed settles a job of which there is no instance; moved says that it holds blocks of another one.
func (s *Service) missed(ctx context.Context, it engine.Item, j Job) (moved bool, err error) {
	var held string
	err = s.DB.Read().QueryRowContext(ctx, `SELECT instance_id FROM assignment WHERE job_id = $1`, j.ID).Scan(&held)
	if errors.Is(err, sql.ErrNoRows) || err == nil && held == j.InstanceID {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read what job %s holds: %w", j.ID, err)
	}
	return s.settle(ctx, it, j, held)
}

// existing is an instance that has not ended, nil for none.
func (s *Service) existing(ctx context.Context, id string) (*instance.Instance, error) {
	if id == "" {
		return nil, nil
	}
	inst, err := s.Instances.Get(ctx, s.DB.Read(), id)
	if errors.Is(err, store.ErrNotFound) || err == nil && !inst.Exists() {
		return nil, nil
	}
	return &inst, err
}

// runsOn says that a job was given the machine of an instance.
func (j *Job) runsOn(inst *instance.Instance) bool {
	was, is := j.Data.Provisioning, inst.Data.Provisioning
	if was == nil || is == nil || was.InstanceID != is.InstanceID {
		return false
	}
	// Hosts of users have no id, and machines of clouds may move.
	return !inst.SSH() || was.Hostname != nil && is.Hostname != nil && *was.Hostname == *is.Hostname
}

// blocks is how many of its instance a job was given.
func (j *Job) blocks() int {
	if rt := j.Data.Runtime; rt != nil && rt.Offer != nil {
		return max(1, rt.Offer.Blocks)
	}
	return 1
}

// catchUp takes over what a host says of a job that was said to be elsewhere: nobody believed it until now. A host that
// does not answer is asked when it does.
func (s *Service) catchUp(ctx context.Context, j Job) error {
	client, err := s.Hosts.Client(ctx, j.InstanceID)
	if err != nil {
		return nil
	}
	tasks, err := client.Tasks(ctx)
	if err != nil {
		return err
	}
	n := slices.IndexFunc(tasks, func(t agentapi.Task) bool { return t.ID == j.ID })
	switch {
	case n < 0 && (j.Status == api.JobPulling || j.Status == api.JobRunning):
		return s.Lost(ctx, j.InstanceID, j.ID)
	case n < 0 || tasks[n].Check() != "":
		return nil
	case tasks[n].State == agentapi.Terminated:
		if err := s.Complete(ctx, j.InstanceID, tasks[n]); err != nil {
			s.Log.Warn("keep the log of a job that was said to be elsewhere", "job", j.ID, "err", err)
		}
	}
	return s.observe(ctx, j.InstanceID, tasks[n])
}
