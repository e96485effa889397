// Package fleet is `dstack fleet`, and the table of fleets that other commands show too.
package fleet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"dstack/internal/api"
	"dstack/internal/cli/follow"
	"dstack/internal/cli/program"
)

const (
	every    = 2 * time.Second
	gonePoll = 200 * time.Millisecond
)

// Options are what the user says.
type Options struct {
	*program.Program
	Project string
	Verbose bool
	Watch   bool
	JSON    bool
	Yes     bool
	ID      string
	Nums    []int
}

// New returns the command and its subcommands; without one it lists.
func New(p *program.Program) *cobra.Command {
	o := Options{Program: p}
	list := func(cmd *cobra.Command, _ []string) error { return List(cmd.Context(), o) }
	cmd := &cobra.Command{Use: "fleet", Short: "Manage fleets", Args: cobra.NoArgs, RunE: list}
	program.ProjectFlag(cmd.PersistentFlags(), &o.Project)
	listCmd := &cobra.Command{Use: "list", Short: "List fleets", Args: cobra.NoArgs, RunE: list}
	for _, f := range []*pflag.FlagSet{cmd.Flags(), listCmd.Flags()} {
		f.BoolVarP(&o.Verbose, "verbose", "v", false, "show more about each instance")
		f.BoolVarP(&o.Watch, "watch", "w", false, "keep the table up to date until Ctrl+C")
		f.BoolVar(&o.JSON, "json", false, "print JSON")
	}
	del := &cobra.Command{
		Use: "delete NAME", Aliases: []string{"destroy"}, Short: "Delete a fleet, or some of its instances", Args: cobra.ExactArgs(1),
		ValidArgsFunction: p.CompleteFleets,
		RunE:              func(cmd *cobra.Command, args []string) error { return Delete(cmd.Context(), o, args[0]) },
	}
	del.Flags().IntSliceVarP(&o.Nums, "instance", "i", nil, "delete only the instance with this number; repeatable")
	del.Flags().BoolVarP(&o.Yes, "yes", "y", false, "do not ask for confirmation")
	get := &cobra.Command{
		Use: "get {NAME | --id UUID} --json", Short: "Show a fleet", Args: cobra.MaximumNArgs(1), ValidArgsFunction: p.CompleteFleets,
		RunE: func(cmd *cobra.Command, args []string) error {
			if (len(args) == 0) == (o.ID == "") {
				return errors.New("either the name of a fleet or --id is needed")
			}
			return Get(cmd.Context(), o, strings.Join(args, ""))
		},
	}
	get.Flags().StringVar(&o.ID, "id", "", "the id of the fleet")
	get.Flags().Bool("json", false, "print JSON, the only format there is")
	_ = get.MarkFlagRequired("json") // it exists
	cmd.AddCommand(listCmd, del, get)
	return cmd
}

// List prints the fleets of the project and those imported into it.
func List(ctx context.Context, o Options) error {
	if o.JSON && o.Watch {
		return errors.New("JSON output is not supported together with --watch")
	}
	c, err := o.Connect(o.Project)
	if err != nil {
		return err
	}
	var fs []api.Fleet
	var costs *Costs
	list := func() (err error) {
		fs, err = c.ListProjectFleets(ctx, c.Project, api.ListProjectFleetsRequest{IncludeImported: true})
		if err == nil && o.Verbose && !o.JSON {
			costs, err = costsOf(ctx, c, fs)
		}
		return err
	}
	lines := func() []string {
		return append(o.Lines(Table(fs, TableOptions{Project: c.Project, Verbose: o.Verbose, Costs: costs, Now: o.Time()})), "")
	}
	if o.Watch {
		return o.IO.Watch(ctx, every, func(context.Context) ([]string, error) {
			err := list()
			return lines(), err
		})
	}
	if err := o.While("Getting fleets...", list); err != nil {
		return err
	}
	if o.JSON {
		return o.PrintCompactJSON(struct {
			Project string      `json:"project"`
			Fleets  []api.Fleet `json:"fleets"`
		}{c.Project, append([]api.Fleet{}, fs...)})
	}
	o.Println(strings.Join(lines(), "\n"))
	return nil
}

// Delete deletes a fleet, or the instances with the given numbers, after asking.
func Delete(ctx context.Context, o Options, name string) error {
	if strings.Contains(name, "/") {
		return fmt.Errorf("Fleet %s belongs to another project: delete it there, with --project", name)
	}
	c, err := o.Connect(o.Project)
	if err != nil {
		return err
	}
	f, err := c.GetFleet(ctx, c.Project, api.GetFleetRequest{Name: &name})
	if program.NotFound(err) {
		return fmt.Errorf("Fleet %s does not exist", name)
	}
	if err != nil {
		return err
	}
	for _, n := range o.Nums {
		if !slices.ContainsFunc(f.Instances, func(i api.Instance) bool { return i.InstanceNum == n }) {
			return fmt.Errorf("Fleet %s has no instance %d. `dstack fleet` shows the numbers", name, n)
		}
	}
	question := fmt.Sprintf("Delete the fleet %s?", name)
	if len(o.Nums) > 0 {
		nums := make([]string, len(o.Nums))
		for i, n := range o.Nums {
			nums[i] = strconv.Itoa(n)
		}
		question = fmt.Sprintf("Delete the fleet %s instances [%s]?", name, strings.Join(nums, ", "))
	}
	if ok, err := o.Agreed(ctx, o.Yes, question); err != nil || !ok {
		return err
	}
	if len(o.Nums) > 0 {
		req := api.DeleteFleetInstancesRequest{Name: name, InstanceNums: o.Nums}
		if err := c.DeleteFleetInstances(ctx, c.Project, req); err != nil {
			return err
		}
		o.Printf("Fleet %s instances deleted\n", name)
		return nil
	}
	if err := c.DeleteFleets(ctx, c.Project, api.DeleteFleetsRequest{Names: []string{name}}); err != nil {
		return err
	}
	o.Printf("Fleet %s deleted\n", name)
	return nil
}

// Get prints a fleet as JSON, named by [PROJECT/]NAME or by id.
func Get(ctx context.Context, o Options, ref string) error {
	c, err := o.Connect(o.Project)
	if err != nil {
		return err
	}
	project, name := c.SplitName(ref)
	req, what := api.GetFleetRequest{Name: &name}, ref
	if o.ID != "" {
		if _, err := uuid.Parse(o.ID); err != nil {
			return fmt.Errorf("Invalid UUID format: %s", o.ID)
		}
		project, req, what = c.Project, api.GetFleetRequest{ID: &o.ID}, o.ID
	}
	f, err := c.GetFleet(ctx, project, req)
	if program.NotFound(err) {
		return fmt.Errorf("Fleet %s not found", what)
	}
	if err != nil {
		return err
	}
	return o.PrintJSON(f)
}

// WaitGone returns when the fleet does not exist any more.
func WaitGone(ctx context.Context, c *program.Conn, name string) error {
	return follow.Poll(ctx, gonePoll, func(ctx context.Context) (bool, error) {
		_, err := c.GetFleet(ctx, c.Project, api.GetFleetRequest{Name: &name})
		if program.NotFound(err) {
			return true, nil
		}
		return false, err
	})
}
