package apply

import (
	"context"
	"errors"
	"fmt"

	"dstack/internal/api"
	"dstack/internal/cli/attach"
	"dstack/internal/cli/term"
)

// attach forwards the ports of the run and makes `ssh RUN` work, until ctx ends. A run does not fail because of that.
func (f *followed) attach(ctx context.Context, run api.Run, forwards []*attach.Forward) {
	defer attach.Release(forwards)
	if len(run.Jobs) == 0 {
		return
	}
	key, err := f.privateKey(ctx, run)
	if err == nil {
		var route attach.Route
		if route, err = attach.RouteTo(run, run.Jobs[0], key, f.Home); err == nil {
			s := &attach.Session{Home: f.Home, Dir: f.Dir(), Route: route, Forwards: forwards, Lazy: true, Warn: f.warn}
			if f.beside {
				err = s.Reserve(ctx, f.Host, attach.PortsOf(forwards))
			}
			if err == nil {
				err = s.Open(ctx)
			}
			if err == nil {
				<-ctx.Done()
				s.Close()
				return
			}
		}
	}
	if ctx.Err() == nil && len(forwards) > 0 {
		f.warn(fmt.Sprintf("%v: the ports of the run are not forwarded. Try again with `dstack attach %s`", err, f.name()))
	}
}

// privateKey is the path of the key that opens the run.
func (f *followed) privateKey(ctx context.Context, run api.Run) (string, error) {
	return attach.KeyOf(ctx, f.Program, f.conn, run, f.SSHIdentity)
}

// reserveAgain opens the same local ports for the next submission.
func (f *followed) reserveAgain(ctx context.Context) error {
	attach.Release(f.forwards)
	if f.beside {
		return nil
	}
	fs, err := attach.Reserve(ctx, f.Host, attach.PortsOf(f.forwards))
	if err != nil {
		return fmt.Errorf("forward the ports again: %w", err)
	}
	f.forwards = fs
	return nil
}

// detach leaves the run after Ctrl+C, or stops it if the user wants that. A second Ctrl+C while it stops aborts it.
func (f *followed) detach(ctx context.Context) error {
	if !f.Yes {
		ask, done := f.Interruptible(ctx)
		stop, err := f.Confirm(ask, fmt.Sprintf("\nStop the run %s before detaching?", f.name()), "-y")
		done()
		if errors.Is(err, term.ErrCancelled) {
			return err
		}
		if err == nil && stop {
			return f.stop(ctx)
		}
	}
	f.Println("Detached")
	return nil
}

func (f *followed) stop(ctx context.Context) error {
	stopping, done := f.Interruptible(ctx)
	err := f.While("Stopping...", func() error {
		if err := f.conn.StopRuns(stopping, f.conn.Project, api.StopRunsRequest{RunsNames: []string{f.name()}}); err != nil {
			return err
		}
		return f.watcher().Until(stopping, func(r api.Run, _ string) (bool, error) { return r.Status.Finished(), nil })
	})
	interrupted := stopping.Err() != nil
	done()
	if err == nil {
		f.Println("Stopped")
		return nil
	}
	if !interrupted {
		return err
	}
	aborting, done := f.Interruptible(ctx)
	defer done()
	err = f.While("Aborting...", func() error {
		return f.conn.StopRuns(aborting, f.conn.Project, api.StopRunsRequest{RunsNames: []string{f.name()}, Abort: true})
	})
	if err != nil {
		return err
	}
	f.failure("Aborted")
	return nil
}
