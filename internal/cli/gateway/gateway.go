// Package gateway is `dstack gateway`, and the table of gateways that `dstack apply` shows too.
package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"dstack/internal/api"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
)

const every = 2 * time.Second

// Options are what the user says.
type Options struct {
	*program.Program
	Project    string
	Verbose    bool
	Watch      bool
	Format     string
	JSON       bool
	Yes        bool
	SetDefault bool
	Domain     string
}

// New returns the command and its subcommands; without one it lists.
func New(p *program.Program) *cobra.Command {
	o := Options{Program: p}
	list := func(cmd *cobra.Command, _ []string) error { return List(cmd.Context(), o) }
	cmd := &cobra.Command{Use: "gateway", Short: "Manage gateways", Args: cobra.NoArgs, RunE: list}
	program.ProjectFlag(cmd.PersistentFlags(), &o.Project)
	listCmd := &cobra.Command{Use: "list", Short: "List gateways", Args: cobra.NoArgs, RunE: list}
	for _, f := range []*pflag.FlagSet{cmd.Flags(), listCmd.Flags()} {
		f.BoolVarP(&o.Verbose, "verbose", "v", false, "show more about each gateway")
		f.BoolVarP(&o.Watch, "watch", "w", false, "keep the table up to date until Ctrl+C")
		f.StringVar(&o.Format, "format", "plain", "plain or json")
		f.BoolVar(&o.JSON, "json", false, "the same as --format json")
	}
	cmd.AddCommand(listCmd, o.deleteCommand(), o.getCommand(), o.updateCommand())
	return cmd
}

func (o *Options) deleteCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "delete NAME", Short: "Delete a gateway", Args: cobra.ExactArgs(1), ValidArgsFunction: o.CompleteGateways,
		RunE: func(cmd *cobra.Command, args []string) error { return Delete(cmd.Context(), *o, args[0]) },
	}
	cmd.Flags().BoolVarP(&o.Yes, "yes", "y", false, "do not ask for confirmation")
	return cmd
}

func (o *Options) getCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "get NAME --json", Short: "Show a gateway", Args: cobra.ExactArgs(1), ValidArgsFunction: o.CompleteGateways,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.Connect(o.Project)
			if err != nil {
				return err
			}
			g, err := find(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			return o.PrintJSON(g)
		},
	}
	cmd.Flags().Bool("json", false, "print JSON, the only format there is")
	_ = cmd.MarkFlagRequired("json") // it exists
	return cmd
}

func (o *Options) updateCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "update NAME", Short: "Update a gateway", Args: cobra.ExactArgs(1), ValidArgsFunction: o.CompleteGateways,
		RunE: func(cmd *cobra.Command, args []string) error { return Update(cmd.Context(), *o, args[0]) },
	}
	cmd.Flags().BoolVar(&o.SetDefault, "set-default", false, "make it the default gateway of the project")
	cmd.Flags().StringVar(&o.Domain, "domain", "", "set the domain (deprecated: set it in the configuration and apply that)")
	return cmd
}

// List prints the gateways of the project and those imported into it.
func List(ctx context.Context, o Options) error {
	if o.Format != "plain" && o.Format != "json" {
		return fmt.Errorf("unknown format %q: use plain or json", o.Format)
	}
	json := o.JSON || o.Format == "json"
	if json && o.Watch {
		return errors.New("JSON output is not supported together with --watch")
	}
	c, err := o.Connect(o.Project)
	if err != nil {
		return err
	}
	table := TableOptions{Project: c.Project, Verbose: o.Verbose, Now: o.Time()}
	if o.Watch {
		return o.IO.Watch(ctx, every, func(ctx context.Context) ([]string, error) {
			gs, err := c.ListGateways(ctx, c.Project, api.ListGatewaysRequest{IncludeImported: true})
			return append(o.Lines(Table(gs, table)), ""), err
		})
	}
	gs, err := c.ListGateways(ctx, c.Project, api.ListGatewaysRequest{IncludeImported: true})
	if err != nil {
		return err
	}
	if json {
		return o.PrintCompactJSON(struct {
			Project  string        `json:"project"`
			Gateways []api.Gateway `json:"gateways"`
		}{c.Project, append([]api.Gateway{}, gs...)})
	}
	o.Print(Table(gs, table))
	o.Println()
	return nil
}

// Delete deletes a gateway after asking.
func Delete(ctx context.Context, o Options, name string) error {
	c, err := o.Connect(o.Project)
	if err != nil {
		return err
	}
	g, err := c.GetGateway(ctx, c.Project, api.NameRequest{Name: name})
	if err != nil {
		return err
	}
	o.Print(Table([]api.Gateway{g}, TableOptions{Project: c.Project, Now: o.Time()}))
	o.Println()
	if ok, err := o.Agreed(ctx, o.Yes, "Do you want to delete the gateway?"); err != nil || !ok {
		return err
	}
	if err := c.DeleteGateways(ctx, c.Project, api.NamesRequest{Names: []string{name}}); err != nil {
		return err
	}
	o.Println("Gateway deleted")
	return nil
}

// Update changes what can be changed without applying a configuration.
func Update(ctx context.Context, o Options, ref string) error {
	c, err := o.Connect(o.Project)
	if err != nil {
		return err
	}
	project, name := c.SplitName(ref)
	if o.Domain != "" {
		o.Say(o.Paint(term.Warning, "--domain is deprecated: set `domain` in the configuration and run `dstack apply`"))
		if _, err := c.SetWildcardDomain(ctx, c.Project, api.SetWildcardDomainRequest{Name: name, WildcardDomain: &o.Domain}); err != nil {
			return err
		}
	}
	if o.SetDefault {
		req := api.SetDefaultGatewayRequest{Name: name}
		if project != c.Project {
			req.GatewayProject = &project
		}
		if err := c.SetDefaultGateway(ctx, c.Project, req); err != nil {
			return err
		}
	}
	g, err := find(ctx, c, ref)
	if err != nil {
		return err
	}
	o.Print(Table([]api.Gateway{g}, TableOptions{Project: c.Project, Now: o.Time()}))
	o.Println()
	return nil
}

// find returns a gateway of the project, or one imported into it.
func find(ctx context.Context, c *program.Conn, ref string) (api.Gateway, error) {
	project, name := c.SplitName(ref)
	if project == c.Project {
		g, err := c.GetGateway(ctx, c.Project, api.NameRequest{Name: name})
		if program.NotFound(err) {
			return g, fmt.Errorf("Gateway %s not found", ref)
		}
		return g, err
	}
	gs, err := c.ListGateways(ctx, c.Project, api.ListGatewaysRequest{IncludeImported: true})
	if err != nil {
		return api.Gateway{}, err
	}
	for _, g := range gs {
		if g.ProjectName == project && g.Name == name {
			return g, nil
		}
	}
	return api.Gateway{}, fmt.Errorf("Gateway %s not found", ref)
}
