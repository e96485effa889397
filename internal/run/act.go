package run

import (
	"context"
	"errors"
	"fmt"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/engine"
)

// act does on a job's host what was decided. It may be repeated.
func (s *Service) act(ctx context.Context, it engine.Item, e Effect, snap JobSnapshot) (time.Time, error) {
	j := snap.Job
	client, err := s.Hosts.Client(ctx, j.InstanceID)
	if err != nil {
		return time.Time{}, nil // the instance wakes the job when it is back
	}
	switch e {
	case Send:
		again, err := s.send(ctx, it, client, snap)
		if err != nil {
			return again, &sendError{err}
		}
		return again, nil
	case Stop:
		t, err := client.Terminate(ctx, j.ID, agentapi.Terminate{Grace: j.grace(), Reason: string(j.Data.Reason), Message: j.Data.Message})
		if agentapi.IsCode(err, agentapi.CodeNotFound) { // it never arrived
			return time.Time{}, s.observe(ctx, j.InstanceID, agentapi.Task{ID: j.ID, State: agentapi.Terminated})
		}
		if err != nil {
			return time.Time{}, err
		}
		return time.Time{}, s.Observe(ctx, j.InstanceID, t)
	case Forget:
		if err := client.Delete(ctx, j.ID); err != nil {
			s.Log.Warn("delete a task from its host", "job", j.ID, "err", err) // the look for left-over tasks does it
		}
	}
	return time.Time{}, nil
}

// sendError says that a host was not given a task.
type sendError struct{ err error }

func (e *sendError) Error() string { return e.err.Error() }
func (e *sendError) Unwrap() error { return e.err }

// send gives the task to the agent. It may be repeated: the agent knows the task by its id.
func (s *Service) send(ctx context.Context, it engine.Item, client *agentapi.Client, snap JobSnapshot) (time.Time, error) {
	j := snap.Job
	spec, err := s.taskSpec(ctx, j, snap.Instance)
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
	if spec.Job.ServerAccess && !t.ServerAccess { // an older agent, which could not be replaced
		return time.Time{}, s.failJob(ctx, it, j, api.JobTerminatedByServer, noAccess)
	}
	d := JobDecision{Job: j}
	d.Job.Data.Unsent = ""
	d.to(api.JobPulling)
	if t.State == agentapi.Terminated { // see Observe
		return time.Time{}, s.commitJob(ctx, it, &d)
	}
	snap.Job = d.Job
	snap.Job.Observed = &t
	next := StepJob(time.Now(), snap)
	if next.Job.Status == api.JobPulling || next.Job.Status == api.JobRunning { // one transaction for what comes at once
		next.Events = append(d.Events, next.Events...)
		if err := s.commitJob(ctx, it, &next, t); err != nil {
			return time.Time{}, err
		}
		if next.Probe {
			s.Engine.Schedule(ProbeKind, it.ID, time.Now())
		}
		return next.Again, nil
	}
	if err := s.commitJob(ctx, it, &d); err != nil {
		return time.Time{}, err
	}
	return time.Time{}, s.Observe(ctx, j.InstanceID, t)
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
