package shim

import (
	"context"
	"time"

	"dstack/internal/agentapi"
)

const (
	sweepEvery = time.Minute
	// orphanAge is how long a container may be without a task that needs it: a removal that is
	// under way takes a moment.
	orphanAge = 2 * time.Minute
)

// sweep removes containers of ours that nothing else would: those that an engine which hung
// made too late, or could not remove. As long as they run nobody else gets their GPUs.
func (s *Shim) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	orphans := orphans{}
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			s.removeOrphans(ctx, now, orphans)
		}
	}
}

// orphans are containers that no task needs, by the task's id, with the time when that was
// first seen.
type orphans map[string]time.Time

// removeOrphans looks once, and removes what was without a task for orphanAge.
func (s *Shim) removeOrphans(ctx context.Context, now time.Time, seen orphans) {
	found, err := s.Runtime.List(ctx)
	if err != nil {
		return // it is away, and asked again
	}
	still, running := map[string]bool{}, map[string]bool{}
	for _, f := range found {
		running[f.ID] = f.Running
		if s.needs(f.ID) {
			continue
		}
		still[f.ID] = true
		if _, known := seen[f.ID]; !known {
			seen[f.ID] = now
		}
		if now.Sub(seen[f.ID]) < orphanAge {
			continue
		}
		s.Log.Warn("a container without a task is removed", "task", f.ID)
		if err := s.Runtime.Remove(ctx, f.ID); err != nil {
			s.Log.Warn("remove a container", "task", f.ID, "err", err)
			continue
		}
		running[f.ID] = false
	}
	for _, id := range s.gpus.Owners() {
		if !running[id] && !s.needs(id) {
			if s.gpus.Release(id) {
				s.tellHost()
			}
		}
	}
	for id := range seen {
		if !still[id] {
			delete(seen, id)
		}
	}
}

// needs says that a task has use for its container.
func (s *Shim) needs(id string) bool {
	t := s.find(id)
	if t == nil {
		return false
	}
	state, _ := t.snapshot()
	return state.State != agentapi.Terminated
}
