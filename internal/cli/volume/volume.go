// Package volume is `dstack volume`, and the table of volumes that `dstack apply` shows too.
package volume

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"dstack/internal/api"
	"dstack/internal/cli/format"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
)

const every = 2 * time.Second

// Options are what the user says.
type Options struct {
	*program.Program
	Project string
	Verbose bool
	Watch   bool
	JSON    bool
	Yes     bool
}

// New returns the command and its subcommands; without one it lists.
func New(p *program.Program) *cobra.Command {
	o := Options{Program: p}
	list := func(cmd *cobra.Command, _ []string) error { return List(cmd.Context(), o) }
	cmd := &cobra.Command{Use: "volume", Short: "Manage volumes", Args: cobra.NoArgs, RunE: list}
	program.ProjectFlag(cmd.PersistentFlags(), &o.Project)
	listCmd := &cobra.Command{Use: "list", Short: "List volumes", Args: cobra.NoArgs, RunE: list}
	for _, f := range []*pflag.FlagSet{cmd.Flags(), listCmd.Flags()} {
		f.BoolVarP(&o.Verbose, "verbose", "v", false, "show more about each volume")
		f.BoolVarP(&o.Watch, "watch", "w", false, "keep the table up to date until Ctrl+C")
		f.BoolVar(&o.JSON, "json", false, "print JSON")
	}
	del := &cobra.Command{
		Use: "delete NAME", Short: "Delete a volume", Args: cobra.ExactArgs(1), ValidArgsFunction: p.CompleteVolumes,
		RunE: func(cmd *cobra.Command, args []string) error { return Delete(cmd.Context(), o, args[0]) },
	}
	del.Flags().BoolVarP(&o.Yes, "yes", "y", false, "do not ask for confirmation")
	get := &cobra.Command{
		Use: "get NAME --json", Short: "Show a volume", Args: cobra.ExactArgs(1), ValidArgsFunction: p.CompleteVolumes,
		RunE: func(cmd *cobra.Command, args []string) error { return Get(cmd.Context(), o, args[0]) },
	}
	get.Flags().Bool("json", false, "print JSON, the only format there is")
	_ = get.MarkFlagRequired("json") // it exists
	cmd.AddCommand(listCmd, del, get)
	return cmd
}

// List prints the volumes of the project.
func List(ctx context.Context, o Options) error {
	if o.JSON && o.Watch {
		return errors.New("JSON output is not supported together with --watch")
	}
	c, err := o.Connect(o.Project)
	if err != nil {
		return err
	}
	if o.Watch {
		return o.IO.Watch(ctx, every, func(ctx context.Context) ([]string, error) {
			vs, err := c.ListVolumes(ctx, c.Project)
			return append(o.Lines(Table(vs, o.Verbose, o.Time())), ""), err
		})
	}
	vs, err := c.ListVolumes(ctx, c.Project)
	if err != nil {
		return err
	}
	if o.JSON {
		return o.PrintCompactJSON(struct {
			Project string       `json:"project"`
			Volumes []api.Volume `json:"volumes"`
		}{c.Project, append([]api.Volume{}, vs...)})
	}
	o.Print(Table(vs, o.Verbose, o.Time()))
	o.Println()
	return nil
}

// Delete deletes a volume after asking.
func Delete(ctx context.Context, o Options, name string) error {
	c, err := o.Connect(o.Project)
	if err != nil {
		return err
	}
	_, err = c.GetVolume(ctx, c.Project, api.NameRequest{Name: name})
	if program.NotFound(err) {
		return fmt.Errorf("Volume %s does not exist", name)
	}
	if err != nil {
		return err
	}
	if ok, err := o.Agreed(ctx, o.Yes, fmt.Sprintf("Delete the volume %s?", name)); err != nil || !ok {
		return err
	}
	if err := c.DeleteVolumes(ctx, c.Project, api.NamesRequest{Names: []string{name}}); err != nil {
		return err
	}
	o.Printf("Volume %s deleted\n", name)
	return nil
}

// Get prints a volume as JSON.
func Get(ctx context.Context, o Options, name string) error {
	c, err := o.Connect(o.Project)
	if err != nil {
		return err
	}
	v, err := c.GetVolume(ctx, c.Project, api.NameRequest{Name: name})
	if program.NotFound(err) {
		return errors.New("Volume not found")
	}
	if err != nil {
		return err
	}
	return o.PrintJSON(v)
}

// Table lists volumes.
func Table(vs []api.Volume, verbose bool, now time.Time) *term.Table {
	titles := []string{"NAME", "BACKEND", "STATUS", "CREATED"}
	if verbose {
		titles = []string{"NAME", "BACKEND", "REGION", "STATUS", "ATTACHED", "CREATED", "ERROR"}
	}
	tb := &term.Table{Columns: term.Columns(titles...)}
	for _, v := range vs {
		c := v.Configuration
		if !verbose {
			tb.Add(v.Name, format.Backend(c.Backend, c.Region), string(v.Status), format.Age(now, v.CreatedAt.Time))
			continue
		}
		zone := c.AvailabilityZone
		if v.ProvisioningData != nil && v.ProvisioningData.AvailabilityZone != nil {
			zone = v.ProvisioningData.AvailabilityZone
		}
		region := c.Region
		if zone != nil {
			region += " (" + *zone + ")"
		}
		tb.Add(v.Name, format.Backend(c.Backend, ""), region, string(v.Status), attached(v), format.Age(now, v.CreatedAt.Time), format.Text(v.StatusMessage))
	}
	return tb
}

func attached(v api.Volume) string {
	var fleets []string
	for _, a := range v.Attachments {
		if a.Instance.FleetName != nil {
			fleets = append(fleets, *a.Instance.FleetName)
		}
	}
	if len(fleets) == 0 {
		return "-"
	}
	return strings.Join(fleets, ", ")
}
