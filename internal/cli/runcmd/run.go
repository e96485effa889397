// Package runcmd is `dstack run`.
package runcmd

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"dstack/internal/api"
	"dstack/internal/cli/program"
	"dstack/internal/cli/ps"
)

// New returns the command; without a subcommand it prints help.
func New(p *program.Program) *cobra.Command {
	cmd := &cobra.Command{
		Use: "run", Short: "Manage runs", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	list := ps.New(p)
	list.Use, list.Short = "list", "List runs"
	cmd.AddCommand(getCommand(p), list)
	return cmd
}

func getCommand(p *program.Program) *cobra.Command {
	var project, id string
	var json bool
	cmd := &cobra.Command{
		Use: "get {RUN | --id UUID} --json", Short: "Show a run", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: p.CompleteAllRuns,
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 0) == (id == "") {
				return errors.New("either the name of a run or --id is needed")
			}
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			return Get(cmd.Context(), p, project, name, id)
		},
	}
	program.ProjectFlag(cmd.Flags(), &project)
	cmd.Flags().StringVar(&id, "id", "", "the id of the run, also of a deleted one")
	cmd.Flags().BoolVar(&json, "json", false, "print JSON, the only format there is")
	_ = cmd.MarkFlagRequired("json") // it exists
	return cmd
}

// Get prints a run, named by name or id, as JSON.
func Get(ctx context.Context, p *program.Program, project, name, id string) error {
	req := api.GetRunRequest{RunName: &name}
	what := name
	if id != "" {
		if _, err := uuid.Parse(id); err != nil {
			return fmt.Errorf("Invalid UUID format: %s", id)
		}
		req, what = api.GetRunRequest{ID: &id}, id
	}
	c, err := p.Connect(project)
	if err != nil {
		return err
	}
	r, err := c.GetRun(ctx, c.Project, req)
	if program.NotFound(err) {
		return fmt.Errorf("Run %s not found", what)
	}
	if err != nil {
		return err
	}
	return p.PrintJSON(r)
}
