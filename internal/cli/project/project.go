// Package project is `dstack project`: the projects that this machine knows.
package project

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"dstack/internal/api"
	"dstack/internal/cli/clientconfig"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
)

// New returns the command and its subcommands. Without one it lists, or on a terminal lets the user choose the default.
func New(p *program.Program) *cobra.Command {
	var verbose, json bool
	cmd := &cobra.Command{Use: "project", Short: "Manage projects configs", Args: cobra.NoArgs}
	list := func(cmd *cobra.Command, _ []string) error { return List(cmd.Context(), p, verbose, json) }
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if verbose || json || !p.InTTY {
			return list(cmd, args)
		}
		return Choose(cmd.Context(), p)
	}
	listCmd := &cobra.Command{Use: "list", Short: "List configured projects", Args: cobra.NoArgs, RunE: list}
	for _, c := range []*cobra.Command{cmd, listCmd} {
		c.Flags().BoolVarP(&verbose, "verbose", "v", false, "ask each server for the user")
		c.Flags().BoolVar(&json, "json", false, "print JSON, without tokens")
	}
	cmd.AddCommand(addCommand(p), listCmd, setDefaultCommand(p), deleteCommand(p))
	return cmd
}

func setDefaultCommand(p *program.Program) *cobra.Command {
	return &cobra.Command{
		Use: "set-default [NAME]", Short: "Set the default project", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: p.CompleteProjects,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return Choose(cmd.Context(), p)
			}
			return SetDefault(p, args[0])
		},
	}
}

func deleteCommand(p *program.Program) *cobra.Command {
	var name string
	var yes bool
	cmd := &cobra.Command{
		Use: "delete --name NAME", Short: "Delete a project from the configuration of this machine", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return Delete(cmd.Context(), p, name, yes) },
	}
	cmd.Flags().StringVar(&name, "name", "", "the name of the project")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask for confirmation")
	_ = cmd.MarkFlagRequired("name") // it exists
	return cmd
}

// List prints the configured projects, with verbose also their users.
func List(ctx context.Context, p *program.Program, verbose, json bool) error {
	ps, err := p.Dir().Load()
	if err != nil {
		return err
	}
	if json {
		type entry struct {
			Name    string `json:"name"`
			URL     string `json:"url"`
			Default bool   `json:"default"`
		}
		out := make([]entry, len(ps))
		for i, e := range ps {
			out[i] = entry{e.Name, e.URL, e.Default}
		}
		return p.PrintJSON(out)
	}
	titles := []string{"PROJECT", "URL", "DEFAULT"}
	if verbose {
		titles = []string{"PROJECT", "URL", "USER", "DEFAULT"}
	}
	tb := &term.Table{Columns: term.Columns(titles...)}
	tb.Columns[len(titles)-1].Center = true
	for _, e := range ps {
		cells := []string{e.Name, e.URL}
		if verbose {
			cells = append(cells, userName(ctx, p, e))
		}
		mark := ""
		if e.Default {
			mark = "✓"
		}
		tb.Add(append(cells, mark)...)
		if e.Default {
			tb.Rows[len(tb.Rows)-1].Style = term.Bold
		}
	}
	p.Print(tb)
	return nil
}

func userName(ctx context.Context, p *program.Program, e clientconfig.Project) string {
	c, err := p.Dial(program.Target{URL: e.URL, Token: e.Token, Project: e.Name})
	if err != nil {
		return "(invalid token)"
	}
	u, err := c.GetMyUser(ctx)
	if err != nil {
		return "(invalid token)"
	}
	return u.Username
}

// SetDefault makes the named project the default.
func SetDefault(p *program.Program, name string) error {
	if _, err := p.Dir().Load(); err != nil {
		return err
	}
	found := false
	err := p.Dir().Update(func(ps []clientconfig.Project) []clientconfig.Project {
		found = clientconfig.SetDefault(ps, name)
		return ps
	})
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("Project '%s' not found. See `dstack project list` for those that are configured", name)
	}
	p.Println("OK")
	return nil
}

// Choose lets the user pick the default project.
func Choose(ctx context.Context, p *program.Program) error {
	ps, err := p.Dir().Load()
	if err != nil {
		return err
	}
	if len(ps) == 0 {
		return fmt.Errorf("No projects are configured yet. Add one with `dstack project add` or `dstack login`")
	}
	options := make([]string, len(ps))
	first := 0
	for i, e := range ps {
		options[i] = fmt.Sprintf("%s (%s)", e.Name, e.URL)
		if e.Default {
			first = i
		}
	}
	n, err := p.Choose(ctx, "Select the default project:", options, first, "the project's name")
	if err != nil {
		return err
	}
	return SetDefault(p, ps[n].Name)
}

// Delete forgets a project.
func Delete(ctx context.Context, p *program.Program, name string, yes bool) error {
	if _, err := p.Dir().Load(); err != nil {
		return err
	}
	if !yes {
		ok, err := p.Confirm(ctx, fmt.Sprintf("Are you sure you want to delete project '%s'?", name), "-y")
		if err != nil || !ok {
			return err
		}
	}
	err := p.Dir().Update(func(ps []clientconfig.Project) []clientconfig.Project { return clientconfig.Remove(ps, name) })
	if err != nil {
		return err
	}
	p.Println("OK")
	return nil
}

// An addition is a project to add.
type addition struct {
	clientconfig.Project
	yes, no bool
}

func addCommand(p *program.Program) *cobra.Command {
	var a addition
	cmd := &cobra.Command{
		Use: "add --name NAME --url URL --token TOKEN", Short: "Add or update a project", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return add(cmd.Context(), p, a) },
	}
	f := cmd.Flags()
	f.StringVar(&a.Name, "name", "", "the name of the project")
	f.StringVar(&a.URL, "url", "", "the URL of the server")
	f.StringVar(&a.Token, "token", "", "the user's token")
	f.BoolVarP(&a.yes, "yes", "y", false, "make it the default project without asking")
	f.BoolVarP(&a.no, "no", "n", false, "do not make it the default project")
	for _, name := range []string{"name", "url", "token"} {
		_ = cmd.MarkFlagRequired(name) // it exists
	}
	cmd.MarkFlagsMutuallyExclusive("yes", "no")
	return cmd
}

// add checks the project with the server and saves it.
func add(ctx context.Context, p *program.Program, a addition) error {
	a.URL = strings.TrimRight(a.URL, "/")
	c, err := p.Dial(program.Target{URL: a.URL, Token: a.Token, Project: a.Name})
	if err != nil {
		return err
	}
	if _, err := c.GetProject(ctx, a.Name); err != nil {
		if e, ok := errors.AsType[*api.Error](err); ok && e.Status == http.StatusNotFound {
			return fmt.Errorf("%w\nThe server has no project %s, or is no dstack server", err, a.Name)
		}
		return err
	}
	ps, err := p.Dir().Load()
	if err != nil {
		p.Say(p.Paint(term.Warning, err.Error()))
	}
	current, exists := clientconfig.Find(ps, "")
	if exists && current.Name == a.Name && current.URL == a.URL && current.Token == a.Token {
		return nil
	}
	a.Default = !a.no && (a.yes || !exists)
	if !a.Default && !a.no {
		a.Default, err = p.Confirm(ctx, fmt.Sprintf("Set '%s' as your default project?", a.Name), "-y or -n")
		if err != nil {
			return err
		}
	}
	err = p.Dir().Update(func(ps []clientconfig.Project) []clientconfig.Project { return clientconfig.Put(ps, a.Project) })
	if err != nil {
		return err
	}
	p.Printf("Configuration updated at %s\n", p.Dir().Path())
	return nil
}
