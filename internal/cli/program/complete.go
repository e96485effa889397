package program

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"dstack/internal/api"
)

// completeTimeout keeps a slow server from blocking the shell.
const completeTimeout = 3 * time.Second

type completer = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)

// names completes the first argument. Errors leave it uncompleted.
func (p *Program) names(list func(context.Context, *Conn) []string) completer {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		project := ""
		if f := cmd.Flag("project"); f != nil {
			project = f.Value.String()
		}
		c, err := p.Connect(project)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(context.Background(), completeTimeout)
		defer cancel()
		return list(ctx, c), cobra.ShellCompDirectiveNoFileComp
	}
}

// CompleteProjects completes names of configured projects.
func (p *Program) CompleteProjects(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	if ps, err := p.Dir().Load(); err == nil && len(args) == 0 {
		for _, e := range ps {
			names = append(names, e.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// CompleteRuns completes names of active runs.
func (p *Program) CompleteRuns(cmd *cobra.Command, args []string, s string) ([]string, cobra.ShellCompDirective) {
	return p.runs(true)(cmd, args, s)
}

// CompleteAllRuns completes names of runs, also of finished ones.
func (p *Program) CompleteAllRuns(cmd *cobra.Command, args []string, s string) ([]string, cobra.ShellCompDirective) {
	return p.runs(false)(cmd, args, s)
}

func (p *Program) runs(active bool) completer {
	return p.names(func(ctx context.Context, c *Conn) []string {
		rs, err := c.ListRuns(ctx, api.ListRunsRequest{ProjectName: &c.Project, OnlyActive: active})
		if err != nil {
			return nil
		}
		var names []string
		for _, r := range rs {
			if r.RunSpec.RunName != nil && (r.Deleted == nil || !*r.Deleted) && !slices.Contains(names, *r.RunSpec.RunName) {
				names = append(names, *r.RunSpec.RunName)
			}
		}
		return names
	})
}

// CompleteFleets completes names of fleets.
func (p *Program) CompleteFleets(cmd *cobra.Command, args []string, s string) ([]string, cobra.ShellCompDirective) {
	return p.names(func(ctx context.Context, c *Conn) []string {
		fs, err := c.ListProjectFleets(ctx, c.Project, api.ListProjectFleetsRequest{})
		if err != nil {
			return nil
		}
		names := make([]string, len(fs))
		for i, f := range fs {
			names[i] = f.Name
		}
		return names
	})(cmd, args, s)
}

// CompleteVolumes completes names of volumes.
func (p *Program) CompleteVolumes(cmd *cobra.Command, args []string, s string) ([]string, cobra.ShellCompDirective) {
	return p.names(func(ctx context.Context, c *Conn) []string {
		vs, err := c.ListVolumes(ctx, c.Project)
		if err != nil {
			return nil
		}
		names := make([]string, len(vs))
		for i, v := range vs {
			names[i] = v.Name
		}
		return names
	})(cmd, args, s)
}

// CompleteGateways completes names of gateways.
func (p *Program) CompleteGateways(cmd *cobra.Command, args []string, s string) ([]string, cobra.ShellCompDirective) {
	return p.names(func(ctx context.Context, c *Conn) []string {
		gs, err := c.ListGateways(ctx, c.Project, api.ListGatewaysRequest{})
		if err != nil {
			return nil
		}
		names := make([]string, len(gs))
		for i, g := range gs {
			names[i] = g.Name
		}
		return names
	})(cmd, args, s)
}

// CompleteSecrets completes names of secrets.
func (p *Program) CompleteSecrets(cmd *cobra.Command, args []string, s string) ([]string, cobra.ShellCompDirective) {
	return p.names(func(ctx context.Context, c *Conn) []string {
		ss, err := c.ListSecrets(ctx, c.Project)
		if err != nil {
			return nil
		}
		names := make([]string, len(ss))
		for i, s := range ss {
			names[i] = s.Name
		}
		return names
	})(cmd, args, s)
}

// CompleteExports completes names of exports.
func (p *Program) CompleteExports(cmd *cobra.Command, args []string, s string) ([]string, cobra.ShellCompDirective) {
	return p.names(func(ctx context.Context, c *Conn) []string {
		es, err := c.ListExports(ctx, c.Project)
		if err != nil {
			return nil
		}
		names := make([]string, len(es))
		for i, e := range es {
			names[i] = e.Name
		}
		return names
	})(cmd, args, s)
}

// CompleteImports completes imports as PROJECT/EXPORT.
func (p *Program) CompleteImports(cmd *cobra.Command, args []string, s string) ([]string, cobra.ShellCompDirective) {
	return p.names(func(ctx context.Context, c *Conn) []string {
		is, err := c.ListImports(ctx, c.Project)
		if err != nil {
			return nil
		}
		names := make([]string, len(is))
		for i, m := range is {
			names[i] = m.Export.ProjectName + "/" + m.Export.Name
		}
		return names
	})(cmd, args, s)
}
