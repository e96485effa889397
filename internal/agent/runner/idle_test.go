package runner

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/agent/sshd"
	"dstack/internal/agentapi"
)

// Idle is a job on which nobody was since it runs: what it takes to set it up does not count. Where nobody wants to
// know, nothing changes.
func TestIdle(t *testing.T) {
	for name, spec := range map[string]agentapi.JobSpec{"told": {}, "not told": {NoIdle: true}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				r := &runner{Config: Config{Dir: dir, Log: slog.New(slog.DiscardHandler)}, spec: spec, ssh: &sshd.Server{}, state: State{Phase: Setup}}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				go r.watch(ctx)
				time.Sleep(10 * time.Minute)
				r.update(func(s *State) { s.Phase = Running })
				before := r.current()
				time.Sleep(time.Minute)
				synctest.Wait()
				after := r.current()
				switch {
				case spec.NoIdle:
					if after != before {
						t.Errorf("%+v, then %+v", before, after)
					}
				case after.IdleSeconds < 50 || after.IdleSeconds > 60:
					t.Errorf("idle for %d seconds after a minute", after.IdleSeconds)
				}
			})
		})
	}
}
