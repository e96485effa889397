package run

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/engine"
	"dstack/internal/event"
	"dstack/internal/instance"
	"dstack/internal/store"
)

func (s *Service) reconcileJob(ctx context.Context, it engine.Item) (time.Time, error) {
	snap, err := s.loadJob(ctx, it.ID)
	if errors.Is(err, store.ErrNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	d := StepJob(time.Now(), snap)
	if d.Changed {
		if err := s.commitJob(ctx, it, &d); err != nil {
			return time.Time{}, err
		}
	}
	again := d.Again
	for _, e := range d.Effects {
		at, err := s.act(ctx, it, e, d.Job)
		if err != nil {
			return time.Time{}, err
		}
		if !at.IsZero() && (again.IsZero() || at.Before(again)) {
			again = at
		}
	}
	return again, nil
}

func (s *Service) loadJob(ctx context.Context, id string) (JobSnapshot, error) {
	q := s.DB.Read()
	j, err := getJob(ctx, q, id)
	if err != nil {
		return JobSnapshot{}, err
	}
	snap := JobSnapshot{Job: j}
	if j.InstanceID != "" {
		inst, err := instance.Get(ctx, q, j.InstanceID)
		if err == nil {
			snap.Instance = &inst
		} else if !errors.Is(err, store.ErrNotFound) {
			return JobSnapshot{}, err
		}
		_, err = s.Hosts.Client(j.InstanceID)
		snap.Reachable = err == nil
	}
	if j.Status == api.JobRunning {
		r, err := getRun(ctx, q, "id = $1", j.RunID)
		if err != nil {
			return JobSnapshot{}, err
		}
		if dev := r.Data.Spec.Configuration.DevEnvironment; dev != nil && dev.InactivityDuration != nil {
			snap.Inactivity = int64(*dev.InactivityDuration)
		}
	}
	return snap, nil
}

func (s *Service) commitJob(ctx context.Context, it engine.Item, d *JobDecision) error {
	return s.DB.Write(ctx, func(tx *store.Tx) error {
		if err := it.Fence.Check(ctx, tx); err != nil {
			return err
		}
		j := d.Job
		j.Data.ProcessedAt = time.Now()
		if err := j.update(ctx, tx); err != nil {
			return err
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
		tx.OnCommit(func() { s.changed(j.RunID) })
		d.Job = j
		return nil
	})
}

// changed tells the run and whoever watches it.
func (s *Service) changed(runID string) {
	s.Engine.Wake(Kind, runID)
	s.watch.notify(runID)
}

func (s *Service) release(ctx context.Context, tx *store.Tx, j Job) error {
	inst, err := s.Instances.Release(ctx, tx, j.InstanceID, j.ID)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.recordJob(ctx, tx, j, fmt.Sprintf("Job unassigned from instance. Instance blocks: %d/%d busy", inst.Busy(), max(1, inst.Blocks)))
}

func (s *Service) recordJob(ctx context.Context, tx *store.Tx, j Job, text string) error {
	return event.Record(ctx, tx, event.Event{Message: text, ProjectID: j.ProjectID,
		Targets: []event.Target{{Type: api.EventTargetJob, ID: j.ID, Name: j.Data.Spec.JobName, ParentID: j.RunID}}})
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

func runEvent(from, to api.RunStatus, data Data) string {
	text := fmt.Sprintf("Run status changed %s -> %s", strings.ToUpper(string(from)), strings.ToUpper(string(to)))
	if to == api.RunTerminating && data.Reason != "" {
		text += ". Termination reason: " + strings.ToUpper(string(data.Reason))
	}
	return text
}

func (s *Service) act(ctx context.Context, it engine.Item, e Effect, j Job) (time.Time, error) {
	if e == Place {
		return s.place(ctx, it, j)
	}
	client, err := s.Hosts.Client(j.InstanceID)
	if err != nil {
		return time.Time{}, nil // the instance wakes the job when it is back
	}
	switch e {
	case Send:
		return s.send(ctx, it, client, j)
	case Stop:
		grace := int64(0)
		if !j.Data.Abort && j.Data.Reason != api.JobAbortedByUser {
			grace = 300
			if j.Data.Spec.StopDuration != nil {
				grace = *j.Data.Spec.StopDuration
			}
		}
		t, err := client.Terminate(ctx, j.ID, agentapi.Terminate{Grace: grace, Reason: string(j.Data.Reason), Message: j.Data.Message})
		if agentapi.IsCode(err, agentapi.CodeNotFound) {
			t, err = agentapi.Task{ID: j.ID, State: agentapi.Terminated}, nil // it never arrived
		}
		if err != nil {
			return time.Time{}, err
		}
		return time.Time{}, s.observe(ctx, t)
	case Forget:
		if err := client.Delete(ctx, j.ID); err != nil {
			s.Log.Warn("delete a task from its host", "job", j.ID, "err", err) // the clean-up at the next connection does it
		}
	}
	return time.Time{}, nil
}

// send gives the task to the agent. It may be repeated: the agent knows the task by its id.
func (s *Service) send(ctx context.Context, it engine.Item, client *agentapi.Client, j Job) (time.Time, error) {
	spec, err := s.taskSpec(ctx, j)
	if err != nil {
		var bad *specError
		if errors.As(err, &bad) {
			return time.Time{}, s.failJob(ctx, it, j, bad.reason, bad.msg)
		}
		return time.Time{}, err
	}
	if err := s.uploadBlobs(ctx, client, spec); err != nil {
		return time.Time{}, err
	}
	t, err := client.Put(ctx, spec)
	if err != nil {
		if agentapi.IsCode(err, agentapi.CodeInvalid) {
			return time.Time{}, s.failJob(ctx, it, j, api.JobExecutorError, err.Error())
		}
		return time.Time{}, err
	}
	d := JobDecision{Job: j}
	d.to(api.JobPulling)
	if err := s.commitJob(ctx, it, &d); err != nil {
		return time.Time{}, err
	}
	return time.Time{}, s.observe(ctx, t)
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

func (s *Service) uploadBlobs(ctx context.Context, client *agentapi.Client, spec agentapi.TaskSpec) error {
	sums := []string{}
	if r := spec.Job.Repo; r != nil && r.Blob != "" {
		sums = append(sums, r.Blob)
	}
	for _, f := range spec.Job.Files {
		sums = append(sums, f.Blob)
	}
	for _, sum := range sums {
		has, err := client.HasBlob(ctx, sum)
		if err != nil {
			return err
		}
		if has {
			continue
		}
		r, err := s.Blobs.Open(ctx, sum)
		if err != nil {
			return fmt.Errorf("open blob %s: %w", sum, err)
		}
		err = client.PutBlob(ctx, sum, r)
		r.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) reconcileRun(ctx context.Context, it engine.Item) (time.Time, error) {
	r, err := getRun(ctx, s.DB.Read(), "id = $1", it.ID)
	if errors.Is(err, store.ErrNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	jobs, err := jobsOf(ctx, s.DB.Read(), r.ID)
	if err != nil {
		return time.Time{}, err
	}
	latest := latestOf(jobs[r.ID])
	d := StepRun(time.Now(), r, latest)
	if d.Changed || d.End != "" || d.Retry || d.Start {
		if err := s.commitRun(ctx, it, d, latest); err != nil {
			return time.Time{}, err
		}
	}
	return d.Again, nil
}

// latestOf keeps the last attempt of each job.
func latestOf(jobs []Job) []Job {
	var out []Job
	for _, j := range jobs {
		if n := len(out); n > 0 && out[n-1].Replica == j.Replica && out[n-1].Num == j.Num {
			out[n-1] = j
			continue
		}
		out = append(out, j)
	}
	return out
}

func (s *Service) commitRun(ctx context.Context, it engine.Item, d RunDecision, latest []Job) error {
	return s.DB.Write(ctx, func(tx *store.Tx) error {
		if err := it.Fence.Check(ctx, tx); err != nil {
			return err
		}
		r := d.Run
		r.Data.ProcessedAt = time.Now()
		if d.Retry {
			r.Data.RetryAt = time.Now().Add(backoff(latest[0].Attempt))
		}
		if err := r.update(ctx, tx); err != nil {
			return err
		}
		for _, text := range d.Events {
			if err := s.recordRun(ctx, tx, r, event.Event{Message: text}); err != nil {
				return err
			}
		}
		switch {
		case d.End != "":
			if err := s.endJobs(ctx, tx, d, latest); err != nil {
				return err
			}
		case d.Retry:
			if err := s.retryJobs(ctx, tx, r, latest); err != nil {
				return err
			}
		case d.Start:
			if err := s.startJobs(ctx, tx, r, "Job created on run submission. Status: SUBMITTED"); err != nil {
				return err
			}
		}
		tx.OnCommit(func() { s.watch.notify(r.ID) })
		return nil
	})
}

func (s *Service) recordRun(ctx context.Context, tx *store.Tx, r Run, e event.Event) error {
	e.ProjectID = r.ProjectID
	e.Targets = []event.Target{{Type: api.EventTargetRun, ID: r.ID, Name: r.Name}}
	return event.Record(ctx, tx, e)
}

func (s *Service) endJobs(ctx context.Context, tx *store.Tx, d RunDecision, latest []Job) error {
	for _, j := range latest {
		abort := d.End == api.JobAbortedByUser
		if j.Finished() || j.Status == api.JobTerminating && (!abort || j.Data.Abort) {
			continue
		}
		jd := JobDecision{Job: j}
		if j.Status == api.JobTerminating {
			jd.Job.Data.Reason, jd.Job.Data.Abort, jd.Changed = d.End, true, true
		} else {
			jd.end(time.Now(), d.End, d.EndMsg)
			jd.Job.Data.Abort = abort
		}
		jd.Job.Data.ProcessedAt = time.Now()
		if err := jd.Job.update(ctx, tx); err != nil {
			return err
		}
		for _, text := range jd.Events {
			if err := s.recordJob(ctx, tx, jd.Job, text); err != nil {
				return err
			}
		}
		tx.OnCommit(func() { s.Engine.Wake(JobKind, j.ID) })
	}
	return nil
}

func (s *Service) retryJobs(ctx context.Context, tx *store.Tx, r Run, latest []Job) error {
	for _, j := range latest {
		if j.Status == api.JobDone || !j.Finished() {
			continue
		}
		next := Job{ID: uuid.NewString(), RunID: r.ID, ProjectID: r.ProjectID, Replica: j.Replica, Num: j.Num, Attempt: j.Attempt + 1,
			Status: api.JobSubmitted, SubmittedAt: time.Now(), Data: JobData{Spec: j.Data.Spec, Deployment: r.Data.Deployment, ProcessedAt: time.Now()}}
		if err := next.insert(ctx, tx); err != nil {
			return err
		}
		if err := s.recordJob(ctx, tx, next, "Job created on retry. Status: SUBMITTED"); err != nil {
			return err
		}
		tx.OnCommit(func() { s.Engine.Wake(JobKind, next.ID) })
	}
	return nil
}

// Observe takes over what a host's agent says about its tasks.
func (s *Service) Observe(ctx context.Context, tasks ...agentapi.Task) error {
	for _, t := range tasks {
		if err := s.observe(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) observe(ctx context.Context, t agentapi.Task) error {
	changed := false
	err := s.DB.Write(ctx, func(tx *store.Tx) error {
		res, err := tx.ExecContext(ctx, observeJob, store.JSON(&t), t.ID)
		if err != nil {
			return fmt.Errorf("store what the host says of job %s: %w", t.ID, err)
		}
		n, err := res.RowsAffected()
		changed = n > 0
		return err
	})
	if changed {
		s.Engine.Wake(JobKind, t.ID)
	}
	return err
}

// Dangling lists the tasks of a host that no job of the instance stands for any more.
func (s *Service) Dangling(ctx context.Context, instanceID string, tasks []agentapi.Task) ([]string, error) {
	var ids []string
	for _, t := range tasks {
		j, err := getJob(ctx, s.DB.Read(), t.ID)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		if err != nil || j.Finished() || j.InstanceID != instanceID {
			ids = append(ids, t.ID)
		}
	}
	return ids, nil
}

// Reconnected looks at the jobs of an instance whose agent answers again.
func (s *Service) Reconnected(ctx context.Context, instanceID string) {
	inst, err := instance.Get(ctx, s.DB.Read(), instanceID)
	if err != nil {
		s.Log.Error("look for the jobs of an instance", "instance", instanceID, "err", err)
		return
	}
	for _, a := range inst.Assignments {
		s.Engine.Wake(JobKind, a.JobID)
	}
}
