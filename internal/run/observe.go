package run

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/instance"
	"dstack/internal/store"
)

// observe takes over what a host says of its tasks. What says nothing new, as answers that the
// event stream repeats, costs no transaction.
func (s *Service) observe(ctx context.Context, instanceID string, tasks ...agentapi.Task) error {
	var news []agentapi.Task
	for _, t := range tasks {
		o, err := observationOf(ctx, s.DB.Read(), instanceID, t)
		if err != nil {
			return err
		}
		if o.fresh {
			news = append(news, t)
		}
	}
	if news == nil {
		return nil
	}
	return s.DB.Write(ctx, func(tx *store.Tx) error {
		for _, t := range news {
			if _, err := s.see(ctx, tx, instanceID, t); err != nil {
				return err
			}
			tx.OnCommit(func() { s.Engine.Wake(JobKind, t.ID) })
		}
		return nil
	})
}

// see stores what a host says of a task; last says that nothing later is known.
func (s *Service) see(ctx context.Context, tx *store.Tx, instanceID string, t agentapi.Task) (last bool, err error) {
	o, err := observationOf(ctx, tx, instanceID, t)
	if err != nil || !o.fresh {
		return o.same, err
	}
	if _, err := tx.ExecContext(ctx, observeJob, o.text, t.ID); err != nil {
		return false, fmt.Errorf("store what the host says of job %s: %w", t.ID, err)
	}
	return true, nil
}

// observation compares what a host says of a task with what is known.
type observation struct {
	text  string
	fresh bool // to be stored
	same  bool // as is stored
}

// observationOf believes a host only what concerns jobs that were placed on it, and nothing that
// is older than what is known: the answer to a command and the event stream overtake each other.
func observationOf(ctx context.Context, q store.Querier, instanceID string, t agentapi.Task) (observation, error) {
	var text string
	err := q.QueryRowContext(ctx, selectObserved, t.ID, instanceID).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return observation{}, nil
	}
	if err != nil {
		return observation{}, fmt.Errorf("read what the host said of job %s: %w", t.ID, err)
	}
	now, err := json.Marshal(t)
	if err != nil {
		return observation{}, fmt.Errorf("store what the host says of job %s: %w", t.ID, err)
	}
	o := observation{text: string(now), same: text == string(now)}
	var was agentapi.Task
	known := text != "" && json.Unmarshal([]byte(text), &was) == nil // what cannot be read is replaced
	o.fresh = !o.same && !(known && older(t, was))
	return o, nil
}

// order is that of a task's states, which only move forward.
var order = map[agentapi.State]int{
	agentapi.Pending: 0, agentapi.Preparing: 1, agentapi.Pulling: 2, agentapi.Creating: 3, agentapi.Running: 4, agentapi.Terminated: 5,
}

// older says that a tells of an earlier moment of a task than b. Of two that cannot be told
// apart none is.
func older(a, b agentapi.Task) bool {
	return order[a.State] < order[b.State] || a.State == b.State && b.Started && !a.Started
}

// Observe takes over what a host's agent answers about its tasks. That one has ended is left
// to the event stream, where it comes after the end of the log: known earlier, the job could
// be over, and its task deleted, before its log is here.
func (s *Service) Observe(ctx context.Context, instanceID string, tasks ...agentapi.Task) error {
	return s.observe(ctx, instanceID, slices.DeleteFunc(slices.Clone(tasks), func(t agentapi.Task) bool { return t.State == agentapi.Terminated })...)
}

// Dangling lists the tasks of a host that no job of the instance stands for any more. There are none when the instance
// has ended: its host may be another instance by now, where a server keeps a connection that was overtaken.
func (s *Service) Dangling(ctx context.Context, instanceID string, tasks []agentapi.Task) ([]string, error) {
	switch inst, err := s.Instances.Get(ctx, s.DB.Read(), instanceID); {
	case errors.Is(err, store.ErrNotFound), err == nil && inst.Status == api.InstanceTerminated:
		return nil, nil
	case err != nil:
		return nil, err
	}
	var ids, elsewhere []string
	for _, t := range tasks {
		j, err := s.rows.job(ctx, s.DB.Read(), t.ID)
		switch {
		case err != nil && !errors.Is(err, store.ErrNotFound):
			return nil, err
		case err != nil || j.Finished():
			ids = append(ids, t.ID)
		case j.InstanceID != instanceID:
			elsewhere = append(elsewhere, t.ID)
		}
	}
	if elsewhere == nil {
		return ids, nil
	}
	held, err := instance.JobsOn(ctx, s.DB.Read(), instanceID)
	for _, id := range elsewhere {
		if !slices.Contains(held, id) { // else somebody edited where it is, see settle
			ids = append(ids, id)
		}
	}
	return ids, err
}

// Unknown lists the jobs that an instance's agent has taken and that are not among its tasks. Tasks that were
// listed before lack what was taken since.
func (s *Service) Unknown(ctx context.Context, instanceID string, tasks []agentapi.Task) ([]string, error) {
	ids, err := instance.JobsOn(ctx, s.DB.Read(), instanceID)
	if err != nil {
		return nil, err
	}
	var unknown []string
	for _, id := range ids {
		if slices.ContainsFunc(tasks, func(t agentapi.Task) bool { return t.ID == id }) {
			continue
		}
		j, err := s.rows.job(ctx, s.DB.Read(), id)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		if err == nil && (j.Status == api.JobPulling || j.Status == api.JobRunning) {
			unknown = append(unknown, id)
		}
	}
	return unknown, nil
}

// Lost ends a job that its host does not know any more: nobody would tell of its end.
func (s *Service) Lost(ctx context.Context, instanceID, jobID string) error {
	return s.observe(ctx, instanceID, agentapi.Task{ID: jobID, State: agentapi.Terminated, Reason: agentapi.ExecutorError, Message: "The host does not know the job any more"})
}

// Reconnected looks at the jobs of an instance whose agent answers again.
func (s *Service) Reconnected(ctx context.Context, instanceID string) {
	jobs, err := instance.JobsOn(ctx, s.DB.Read(), instanceID)
	if err != nil {
		s.Log.Error("look for the jobs of an instance", "instance", instanceID, "err", err)
		return
	}
	s.Engine.Wake(JobKind, jobs...)
}
