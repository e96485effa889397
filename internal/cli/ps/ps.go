// Package ps is `dstack ps`, and the table of runs that other commands show too.
package ps

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"dstack/internal/api"
	"dstack/internal/cli/program"
)

const (
	// pageSize is the most that one request may ask for.
	pageSize = 100
	every    = 2 * time.Second
)

// Options are what the user says.
type Options struct {
	*program.Program
	Project string
	All     bool
	Verbose bool
	Watch   bool
	Last    int // 0: no limit was given
	Format  string
	JSON    bool
}

// New returns the command.
func New(p *program.Program) *cobra.Command {
	o := Options{Program: p}
	cmd := &cobra.Command{
		Use:   "ps",
		Short: "List runs",
		Long:  "List the active runs of a project, or the last one if none is active.",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return Run(cmd.Context(), o) },
	}
	f := cmd.Flags()
	program.ProjectFlag(f, &o.Project)
	f.BoolVarP(&o.All, "all", "a", false, "also runs that have ended")
	f.BoolVarP(&o.Verbose, "verbose", "v", false, "show more about each run")
	f.BoolVarP(&o.Watch, "watch", "w", false, "keep the table up to date until Ctrl+C")
	f.IntVarP(&o.Last, "last", "n", 0, "the last runs, at most this many, also ended ones")
	f.StringVar(&o.Format, "format", "plain", "plain or json")
	f.BoolVar(&o.JSON, "json", false, "the same as --format json")
	return cmd
}

// Run lists the runs.
func Run(ctx context.Context, o Options) error {
	switch {
	case o.Format != "plain" && o.Format != "json":
		return fmt.Errorf("unknown format %q: use plain or json", o.Format)
	case o.Last < 0:
		return errors.New("-n/--last needs a number above 0")
	}
	json := o.JSON || o.Format == "json"
	if json && o.Watch {
		return errors.New("JSON output is not supported together with --watch")
	}
	c, err := o.Connect(o.Project)
	if err != nil {
		return err
	}
	if o.Watch {
		return o.IO.Watch(ctx, every, func(ctx context.Context) ([]string, error) {
			runs, err := o.list(ctx, c)
			lines := o.Lines(Table(runs, TableOptions{Verbose: o.Verbose, Now: o.Time()}))
			return append(lines, Waiting(runs, o.Time())...), err
		})
	}
	var runs []api.Run
	err = o.While("Getting runs...", func() (err error) {
		runs, err = o.list(ctx, c)
		return err
	})
	if err != nil {
		return err
	}
	if json {
		if runs == nil {
			runs = []api.Run{}
		}
		return o.PrintCompactJSON(struct {
			Project string    `json:"project"`
			Runs    []api.Run `json:"runs"`
		}{c.Project, runs})
	}
	o.Print(Table(runs, TableOptions{Verbose: o.Verbose, Now: o.Time()}))
	for _, line := range Waiting(runs, o.Time()) {
		o.Println(line)
	}
	return nil
}

func (o Options) list(ctx context.Context, c *program.Conn) ([]api.Run, error) {
	one := 1
	req := api.ListRunsRequest{ProjectName: &c.Project, OnlyActive: !o.All && o.Last == 0, JobSubmissionsLimit: &one}
	runs, err := pages(ctx, c, req, o.Last)
	if err != nil || len(runs) > 0 || !req.OnlyActive {
		return runs, err
	}
	req.OnlyActive = false
	return pages(ctx, c, req, 1)
}

// pages lists runs, newest first, at most limit if that is not 0.
func pages(ctx context.Context, c *program.Conn, req api.ListRunsRequest, limit int) ([]api.Run, error) {
	var runs []api.Run
	for {
		size := pageSize
		if limit > 0 {
			size = min(size, limit-len(runs))
		}
		req.Limit = &size
		page, err := c.ListRuns(ctx, req)
		if err != nil {
			return nil, err
		}
		runs = append(runs, page...)
		if len(page) < size || limit > 0 && len(runs) >= limit {
			return runs, nil
		}
		last := page[len(page)-1]
		req.PrevSubmittedAt, req.PrevRunID = &last.SubmittedAt, &last.ID
	}
}
