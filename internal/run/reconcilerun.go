package run

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"dstack/internal/api"
	"dstack/internal/engine"
	"dstack/internal/event"
	"dstack/internal/store"
)

// changed tells the run and whoever watches it.
func (s *Service) changed(runID string) {
	s.Engine.Wake(Kind, runID)
	s.Engine.Tell(watchTopic, runID)
}

func runEvent(from, to api.RunStatus, data Data) string {
	text := fmt.Sprintf("Run status changed %s -> %s", strings.ToUpper(string(from)), strings.ToUpper(string(to)))
	if to == api.RunTerminating && data.Reason != "" {
		text += ". Termination reason: " + strings.ToUpper(string(data.Reason))
	}
	return text
}

func (s *Service) reconcileRun(ctx context.Context, it engine.Item) (time.Time, error) {
	r, err := s.rows.run(ctx, s.DB.Read(), it.ID)
	if errors.Is(err, store.ErrNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	if r.Data.Damage != "" {
		s.Log.Error("the stored record of a run cannot be read", "run", r.Name, "id", r.ID, "err", r.Data.Damage)
	}
	jobs, err := s.rows.jobsOf(ctx, s.DB.Read(), r.ID)
	if err != nil {
		return time.Time{}, err
	}
	snap := RunSnapshot{Run: r, Jobs: jobs[r.ID], Images: s.Images}
	switch {
	case r.Status.Finished() || r.Status == api.RunTerminating:
	case r.Deleted:
		s.Log.Error("a run is deleted and not over: it is ended", "run", r.Name, "id", r.ID)
	case r.Status == api.RunPending && snap.goesOn():
		s.Log.Error("a run is said to wait while its jobs go on: they are followed", "run", r.Name, "id", r.ID)
	}
	if snap.Load, err = s.load(ctx, r, time.Now()); err != nil {
		return time.Time{}, err
	}
	d := settleRun(time.Now(), snap)
	if d.Changed || d.Ends != nil || d.New != nil || d.Relabel != nil {
		if err := s.commitRun(ctx, it, d, jobs[r.ID]); err != nil {
			return time.Time{}, err
		}
	}
	if d.Run.Status != r.Status && s.Moved != nil {
		s.Moved(ctx, d.Run, r.Status)
	}
	if tellsRouter(d.Run) {
		s.Engine.Schedule(RouterKind, it.ID, time.Now())
	}
	return d.Again, nil
}

// settleRun is StepRun, and one more step when that ends the run: where no job is left, both
// are one transaction.
func settleRun(now time.Time, s RunSnapshot) RunDecision {
	d := StepRun(now, s)
	if d.Run.Status == s.Run.Status || d.Run.Status != api.RunTerminating || d.Ends != nil || d.New != nil || d.Relabel != nil || d.Drop != nil {
		return d
	}
	s.Run = d.Run
	next := StepRun(now, s)
	next.Changed, next.Events = true, append(d.Events, next.Events...)
	if next.Again.IsZero() && next.Run.Status == api.RunTerminating && next.Ends == nil {
		next.Again = d.Again
	}
	return next
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

func (s *Service) commitRun(ctx context.Context, it engine.Item, d RunDecision, jobs []Job) error {
	return s.DB.Write(ctx, func(tx *store.Tx) error {
		if err := it.Fence.Check(ctx, tx); err != nil {
			return err
		}
		r := d.Run
		r.Data.ProcessedAt = time.Now()
		if r.Status != api.RunSubmitted {
			r.Data.Waiting = nil
		}
		if err := s.rows.updateRun(ctx, tx, &r); err != nil {
			return err
		}
		for _, text := range d.Events {
			if err := s.recordRun(ctx, tx, r, event.Event{Message: text}); err != nil {
				return err
			}
		}
		for _, j := range d.Relabel {
			j.Data.Deployment = r.Data.Deployment
			if err := j.update(ctx, tx); err != nil {
				return err
			}
		}
		for _, e := range d.Ends {
			if err := s.endJob(ctx, tx, e.Job, e.Reason, e.Msg); err != nil {
				return err
			}
		}
		if err := s.renew(ctx, tx, r, d, jobs); err != nil {
			return err
		}
		tx.OnCommit(func() { s.Engine.Tell(watchTopic, r.ID) })
		return nil
	})
}

// renew stores the new attempts of a decision and drops the rows that they make useless.
func (s *Service) renew(ctx context.Context, tx *store.Tx, r Run, d RunDecision, jobs []Job) error {
	for _, id := range d.Drop {
		if _, err := tx.ExecContext(ctx, `DELETE FROM job WHERE id = $1`, id); err != nil {
			return fmt.Errorf("drop an old attempt: %w", err)
		}
	}
	if d.New == nil {
		return nil
	}
	if len(jobs) == 0 && d.New[0].Num < 0 {
		return s.startJobs(ctx, tx, r, d.Origin)
	}
	for _, n := range d.New { // from the run's present spec: it may have been updated
		specs, err := s.Images.Replica(r.Data.Spec, r.Name, n.Group, n.Replica)
		if err != nil {
			return err
		}
		for _, js := range specs {
			if js.JobNum != n.Num {
				continue
			}
			if err := s.newJob(ctx, tx, r, js, n, d.Origin); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Service) recordRun(ctx context.Context, tx *store.Tx, r Run, e event.Event) error {
	e.ProjectID = r.ProjectID
	e.Targets = []event.Target{{Type: api.EventTargetRun, ID: r.ID, Name: r.Name}}
	return event.Record(ctx, tx, e)
}
