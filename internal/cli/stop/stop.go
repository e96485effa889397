// Package stop is `dstack stop`.
package stop

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"dstack/internal/api"
	"dstack/internal/cli/program"
)

// Options are what the user says.
type Options struct {
	*program.Program
	Project    string
	Name       string
	Abort, Yes bool
}

// New returns the command.
func New(p *program.Program) *cobra.Command {
	o := Options{Program: p}
	cmd := &cobra.Command{
		Use:               "stop RUN",
		Short:             "Stop a run",
		Long:              "Stop a run. Its jobs get the time of `stop_duration` to end by themselves, unless --abort is given.",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.CompleteRuns,
	}
	program.ProjectFlag(cmd.Flags(), &o.Project)
	cmd.Flags().BoolVarP(&o.Abort, "abort", "x", false, "kill at once instead of stopping gracefully")
	cmd.Flags().BoolVarP(&o.Yes, "yes", "y", false, "do not ask for confirmation")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		o.Name = args[0]
		return Run(cmd.Context(), o)
	}
	return cmd
}

// Run stops the run.
func Run(ctx context.Context, o Options) error {
	c, err := o.Connect(o.Project)
	if err != nil {
		return err
	}
	if _, err := c.Run(ctx, o.Name); err != nil {
		return err
	}
	if !o.Yes {
		ok, err := o.Confirm(ctx, "Are you sure you want to stop the run?", "-y")
		if err != nil || !ok {
			return err
		}
	}
	req := api.StopRunsRequest{RunsNames: []string{o.Name}, Abort: o.Abort}
	if err := c.StopRuns(ctx, c.Project, req); err != nil {
		return fmt.Errorf("stop run %s: %w", o.Name, err)
	}
	if o.Abort {
		o.Println("Aborted")
	} else {
		o.Println("Stopped")
	}
	return nil
}
