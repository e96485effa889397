package run

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"dstack/internal/api"
	"dstack/internal/instance"
	"dstack/internal/project"
	"dstack/internal/store"
)

// watchers tell who waits for changes of a run.
type watchers struct {
	mu    sync.Mutex
	byRun map[string]*news
}

// news is closed at the next change of a run.
type news struct {
	changed chan struct{}
	waiting int
}

func newWatchers() *watchers { return &watchers{byRun: map[string]*news{}} }

func (w *watchers) notify(runID string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n, ok := w.byRun[runID]; ok {
		close(n.changed)
		delete(w.byRun, runID)
	}
}

// next returns a channel that is closed at the next change. Subscribe before reading: what
// happens between the two is not missed then. Stop must be called once.
func (w *watchers) next(runID string) (changed <-chan struct{}, stop func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, ok := w.byRun[runID]
	if !ok {
		n = &news{changed: make(chan struct{})}
		w.byRun[runID] = n
	}
	n.waiting++
	return n.changed, func() { w.leave(runID, n) }
}

func (w *watchers) leave(runID string, n *news) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if n.waiting--; n.waiting == 0 && w.byRun[runID] == n {
		delete(w.byRun, runID)
	}
}

// Watch waits until a run differs from what the caller has seen.
func (s *Service) Watch(ctx context.Context, sc project.Scope, r api.WatchRunRequest) (api.WatchRunResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(r.Wait)*time.Second)
	defer cancel()
	for {
		out, changed, stop, err := s.look(ctx, sc, r.RunName)
		if err != nil || out.Version != r.Seen {
			if stop != nil {
				stop()
			}
			return out, err
		}
		select {
		case <-changed:
			stop()
		case <-ctx.Done():
			stop()
			return out, nil
		}
	}
}

// look subscribes to the changes of a run and then reads it.
func (s *Service) look(ctx context.Context, sc project.Scope, name string) (out api.WatchRunResponse, changed <-chan struct{}, stop func(), err error) {
	q := s.DB.Read()
	ctx = context.WithoutCancel(ctx) // reads are short; the deadline is for waiting
	run, err := getRun(ctx, q, "NOT deleted AND project_id = $1 AND name = $2", sc.Project.ID, name)
	if errors.Is(err, store.ErrNotFound) {
		return out, nil, nil, api.NotExists("Run not found")
	}
	if err != nil {
		return out, nil, nil, err
	}
	changed, stop = s.watch.next(run.ID)
	if run, err = s.rows.run(ctx, q, run.ID); err != nil {
		return out, changed, stop, err
	}
	v, err := s.view(ctx, run, sc.Project.Name, true)
	why := ""
	switch {
	case err != nil:
	case v.Waiting != nil:
		why = v.Waiting.Text()
	case run.Status == api.RunSubmitted || run.Status == api.RunProvisioning:
		why, err = s.booting(ctx, q, run.ID)
	}
	return api.WatchRunResponse{Run: v, Version: version(v, why), Waiting: why}, changed, stop, err
}

// booting says what the instances of a run's jobs lack before the jobs can be sent to them, ""
// when nothing is known of it.
func (s *Service) booting(ctx context.Context, q store.Querier, runID string) (string, error) {
	jobs, err := s.rows.jobsOf(ctx, q, runID)
	if err != nil {
		return "", err
	}
	for _, j := range jobs[runID] {
		if j.Status != api.JobProvisioning || j.InstanceID == "" {
			continue
		}
		inst, err := s.Instances.Get(ctx, q, j.InstanceID)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return "", err
		}
		if text := cmp.Or(problem(j, &inst), j.Data.Unsent); text != "" {
			return inst.Name + ": " + text, nil
		}
	}
	return "", nil
}

// problem is what an instance lacks before a job can be sent to it, "" when nothing is known of it.
func problem(j Job, inst *instance.Instance) string {
	if lacksGPUs(j, inst) {
		return inst.Lack()
	}
	return inst.Data.Problem
}
