// Package deletecmd is `dstack delete`.
package deletecmd

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"dstack/internal/api"
	"dstack/internal/cli/apply"
	"dstack/internal/cli/fleet"
	"dstack/internal/cli/program"
	"dstack/internal/config"
)

// Options are what the user says.
type Options struct {
	*program.Program
	Project string
	File    string
	Yes     bool
}

// New returns the command.
func New(p *program.Program) *cobra.Command {
	o := Options{Program: p}
	cmd := &cobra.Command{
		Use: "delete", Aliases: []string{"destroy"}, Short: "Delete resources",
		Long: "Delete the run, fleet, volume or gateway that a configuration file names.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return Run(cmd.Context(), o) },
	}
	f := cmd.Flags()
	program.ProjectFlag(f, &o.Project)
	f.StringVarP(&o.File, "file", "f", "", "the configuration file, by default .dstack.yml")
	f.BoolVarP(&o.Yes, "yes", "y", false, "do not ask for confirmation")
	return cmd
}

// Run deletes what the file names.
func Run(ctx context.Context, o Options) error {
	f, err := apply.Load(o.Program, o.File)
	if err != nil {
		return err
	}
	c, err := o.Connect(o.Project)
	if err != nil {
		return err
	}
	d := deleter{o, c}
	kind, name := f.Type(), f.Name()
	switch kind {
	case config.TypeFleet:
		return d.delete(ctx, "fleet", name, d.fleetExists, d.deleteFleet)
	case config.TypeVolume:
		return d.delete(ctx, "volume", name, d.volumeExists, d.deleteVolume)
	case config.TypeGateway:
		return d.delete(ctx, "gateway", name, d.gatewayExists, d.deleteGateway)
	}
	return d.delete(ctx, "run", name, d.runExists, d.deleteRun)
}

type deleter struct {
	Options
	conn *program.Conn
}

func (d deleter) delete(ctx context.Context, kind, name string, exists, del func(context.Context, string) error) error {
	if name == "" {
		return fmt.Errorf("Configuration specifies no %s to delete", kind)
	}
	title := strings.ToUpper(kind[:1]) + kind[1:]
	if err := exists(ctx, name); err != nil {
		if program.NotFound(err) {
			return fmt.Errorf("%s %s does not exist", title, name)
		}
		return err
	}
	if ok, err := d.Agreed(ctx, d.Yes, fmt.Sprintf("Delete the %s %s?", kind, name)); err != nil || !ok {
		return err
	}
	if err := d.While(fmt.Sprintf("Deleting %s...", kind), func() error { return del(ctx, name) }); err != nil {
		return err
	}
	d.Printf("%s %s deleted\n", title, name)
	return nil
}

func (d deleter) runExists(ctx context.Context, name string) error {
	_, err := d.conn.GetRun(ctx, d.conn.Project, api.GetRunRequest{RunName: &name})
	return err
}

func (d deleter) deleteRun(ctx context.Context, name string) error {
	return d.conn.DeleteRuns(ctx, d.conn.Project, api.DeleteRunsRequest{RunsNames: []string{name}})
}

func (d deleter) fleetExists(ctx context.Context, name string) error {
	_, err := d.conn.GetFleet(ctx, d.conn.Project, api.GetFleetRequest{Name: &name})
	return err
}

func (d deleter) deleteFleet(ctx context.Context, name string) error {
	if err := d.conn.DeleteFleets(ctx, d.conn.Project, api.DeleteFleetsRequest{Names: []string{name}}); err != nil {
		return err
	}
	return fleet.WaitGone(ctx, d.conn, name)
}

func (d deleter) volumeExists(ctx context.Context, name string) error {
	_, err := d.conn.GetVolume(ctx, d.conn.Project, api.NameRequest{Name: name})
	return err
}

func (d deleter) deleteVolume(ctx context.Context, name string) error {
	return d.conn.DeleteVolumes(ctx, d.conn.Project, api.NamesRequest{Names: []string{name}})
}

func (d deleter) gatewayExists(ctx context.Context, name string) error {
	_, err := d.conn.GetGateway(ctx, d.conn.Project, api.NameRequest{Name: name})
	return err
}

func (d deleter) deleteGateway(ctx context.Context, name string) error {
	return d.conn.DeleteGateways(ctx, d.conn.Project, api.NamesRequest{Names: []string{name}})
}
