// Package logs is `dstack logs`.
package logs

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"dstack/internal/api"
	"dstack/internal/cli/follow"
	"dstack/internal/cli/format"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
)

// Options are what the user says.
type Options struct {
	*program.Program
	Project      string
	Name         string
	Replica, Job int
	Since        string
	Diagnose     bool
	Follow       bool
}

// New returns the command.
func New(p *program.Program) *cobra.Command {
	o := Options{Program: p}
	cmd := &cobra.Command{
		Use:   "logs RUN",
		Short: "Show logs",
		Long: "Print the log of a run. With --follow, go on until the job ends; Ctrl+C stops printing and leaves the run alone.\n" +
			"The log comes from the server: no SSH connection is needed.",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.CompleteAllRuns,
	}
	f := cmd.Flags()
	program.ProjectFlag(f, &o.Project)
	f.BoolVarP(&o.Follow, "follow", "f", false, "print what is added until the job ends")
	f.BoolVarP(&o.Diagnose, "diagnose", "d", false, "the log of the agent that ran the job")
	f.IntVar(&o.Replica, "replica", 0, "the replica number")
	f.IntVar(&o.Job, "job", 0, "the job number inside the replica")
	f.StringVar(&o.Since, "since", "", "only what was written after this time: a duration like 5m or 1d, or an RFC 3339 time")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o.Name = args[0]
		return Run(cmd.Context(), o)
	}
	return cmd
}

// Run prints the log.
func Run(ctx context.Context, o Options) error {
	l := follow.Log{Run: o.Name, Diagnose: o.Diagnose}
	if o.Since != "" {
		t, err := format.Since(o.Time(), o.Since)
		if err != nil {
			return err
		}
		l.Since = &t
	}
	c, err := o.Connect(o.Project)
	if err != nil {
		return err
	}
	l.Conn = c
	r, err := c.Run(ctx, o.Name)
	if err != nil {
		return err
	}
	write := func(b []byte) error {
		_, err := o.Out.Write(b)
		return err
	}
	sub := o.submission(r)
	if sub == nil && len(r.Jobs) > 0 {
		return fmt.Errorf("Run %s has no job matching replica=%d job=%d", o.Name, o.Replica, o.Job)
	}
	if !o.Follow {
		if sub == nil { // nothing has run yet
			return nil
		}
		l.Submission = sub.ID
		return l.Print(ctx, write)
	}
	return o.follow(ctx, l, r, write)
}

// follow prints one submission after the other, as the run is retried, until the run has ended.
func (o Options) follow(ctx context.Context, l follow.Log, r api.Run, write func([]byte) error) error {
	w := follow.Watcher{Conn: l.Conn, ID: r.ID, Name: o.Name}
	l.Lost = func() { o.Say(o.Paint(term.Warning, term.Unanswered)) }
	printed := ""
	for {
		var sub *api.JobSubmission
		ended := false
		live := o.Wait(fmt.Sprintf("Waiting for %s to start...", o.Name))
		w.Lost = func() { live.Set(term.Unanswered) }
		err := w.Until(ctx, func(r api.Run, _ string) (bool, error) {
			sub, ended = o.submission(r), r.Status.Finished()
			return ended || sub != nil && sub.ID != printed, nil
		})
		live.Close()
		if ctx.Err() != nil {
			return nil // Ctrl+C is how following ends
		}
		if err != nil {
			return err
		}
		if sub == nil || sub.ID == printed {
			return nil
		}
		l.Submission, printed = sub.ID, sub.ID
		one := l // with a position of its own
		if err := one.Follow(ctx, w.Ended(ctx, sub.ID), write); ctx.Err() != nil || err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		l.Since = nil // the next one is after it anyway
	}
}

// submission is the last one of the job that was asked for, nil if there is none.
func (o Options) submission(r api.Run) *api.JobSubmission {
	for _, j := range r.Jobs {
		if j.JobSpec.ReplicaNum == o.Replica && j.JobSpec.JobNum == o.Job {
			return follow.Last(j)
		}
	}
	return nil
}
