package shim

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"dstack/internal/agent/runner"
	"dstack/internal/agent/runtime"
)

const (
	// firstPause is when an engine that was away is asked again; later pauses are longer, up to mostPause.
	firstPause = 500 * time.Millisecond
	mostPause  = 15 * time.Second
	// enginePatience bounds all pauses of one step together: an engine that is stopped for good, or that the step
	// itself brings down, must not keep the job from other hosts.
	enginePatience = 5 * time.Minute
)

// patiently takes a step of a task's start that needs the container engine. One that is away, as when it is restarted
// for an upgrade, is waited for, and the step is taken again: nothing has gone wrong with the job. The last error is
// returned when that takes too long, or ctx ends.
func (t *task) patiently(ctx context.Context, step func() error) error {
	log := t.shim.Log.With("task", t.spec.ID)
	var waited time.Duration
	for pause := firstPause; ; pause = min(2*pause, mostPause) {
		err := step()
		if !errors.Is(err, runtime.ErrAway) {
			if err == nil && waited > 0 {
				log.Info("the container engine answers again", "waited", waited)
				t.note("the container engine answers again")
			}
			return err
		}
		if waited >= enginePatience || ctx.Err() != nil {
			return err
		}
		if waited == 0 {
			log.Warn("the container engine is waited for", "err", err)
			t.note("the container engine is waited for", "err", err)
		}
		select {
		case <-time.After(pause):
			waited += pause
		case <-ctx.Done():
			return err
		}
	}
}

// note writes a line into the log of the task's runner, for those who ask what keeps their job. Its container may be
// there already, with somebody in it who has put something else in the log's place.
func (t *task) note(msg string, args ...any) {
	f, err := os.OpenFile(filepath.Join(t.jobDir(), runner.OwnLogFile), os.O_APPEND|os.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Mode().IsRegular() {
		slog.New(slog.NewTextHandler(f, nil)).Warn(msg, args...)
	}
}
