// Package cost is `dstack cost`.
package cost

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"dstack/internal/api"
	"dstack/internal/cli/format"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
)

// Options are what the user says.
type Options struct {
	*program.Program
	Project      string
	All          bool
	Fleets       []string
	Since, Until string
	By           []string
	JSON         bool
}

// groupings are what --by takes.
var groupings = []api.CostBy{api.CostByProject, api.CostByFleet, api.CostByInstance, api.CostByBackend, api.CostByRun, api.CostByUser, api.CostByDay}

// New returns the command.
func New(p *program.Program) *cobra.Command {
	o := Options{Program: p}
	cmd := &cobra.Command{
		Use: "cost", Short: "Show what machines have cost", Args: cobra.NoArgs,
		Long: "Show what machines and disks of the project have cost: their price for as long as the provider has them,\n" +
			"from their creation to the end that it has confirmed, those that are gone included. Hosts of SSH fleets\n" +
			"cost nothing. By run or user, machines are shared out to the runs whose jobs held them; what nobody held\n" +
			"is in a line of its own, so that all lines together are what is paid.",
		RunE: func(cmd *cobra.Command, _ []string) error { return Run(cmd.Context(), o) },
	}
	f := cmd.Flags()
	program.ProjectFlag(f, &o.Project)
	f.BoolVarP(&o.All, "all", "a", false, "all projects that you may see")
	f.StringArrayVar(&o.Fleets, "fleet", nil, "only fleets with this name; repeatable")
	f.StringVar(&o.Since, "since", "30d", "from this time on: a duration like 12h or 7d, or an RFC 3339 time")
	f.StringVar(&o.Until, "until", "", "up to this time, by default now")
	f.StringSliceVar(&o.By, "by", []string{"fleet"}, "what to group by: project, fleet, instance, backend, run, user, day (of UTC); several with commas")
	f.BoolVar(&o.JSON, "json", false, "print JSON")
	cmd.MarkFlagsMutuallyExclusive("project", "all")
	return cmd
}

// Run prints what the server adds up.
func Run(ctx context.Context, o Options) error {
	req, err := o.request()
	if err != nil {
		return err
	}
	c, err := o.Connect(o.Project)
	if err != nil {
		return err
	}
	if !o.All {
		req.ProjectNames = []string{c.Project}
	}
	var costs api.Costs
	err = o.While("Adding up...", func() (err error) {
		costs, err = c.Costs(ctx, req)
		return err
	})
	switch {
	case program.NotServed(err):
		return errors.New("The server does not tell what machines have cost")
	case err != nil:
		return err
	case o.JSON:
		return o.PrintJSON(costs)
	}
	o.Print(Table(costs, req.By))
	o.Println()
	o.Println(summary(costs))
	return nil
}

func (o Options) request() (api.CostsRequest, error) {
	req := api.CostsRequest{FleetNames: o.Fleets}
	for text, at := range map[*string]**api.Time{&o.Since: &req.Since, &o.Until: &req.Until} {
		if *text == "" {
			continue
		}
		t, err := format.Since(o.Time(), *text)
		if err != nil {
			return req, err
		}
		*at = api.OptTime(t)
	}
	if o.All {
		req.By = append(req.By, api.CostByProject)
	}
	for _, name := range o.By {
		by := api.CostBy(strings.TrimSpace(name))
		if !slices.Contains(groupings, by) {
			return req, fmt.Errorf("Costs cannot be grouped by %q: only by %s", name, list(groupings))
		}
		if !slices.Contains(req.By, by) {
			req.By = append(req.By, by)
		}
	}
	return req, nil
}

func list(all []api.CostBy) string {
	names := make([]string, len(all))
	for i, by := range all {
		names[i] = string(by)
	}
	return strings.Join(names, ", ")
}

// Table has a column for each grouping, and one for kinds when not everything is a machine.
func Table(costs api.Costs, by []api.CostBy) *term.Table {
	var titles []string
	for _, b := range by {
		titles = append(titles, strings.ToUpper(string(b)))
	}
	kinds := slices.ContainsFunc(costs.Rows, func(r api.CostRow) bool { return r.Kind != "instance" })
	if kinds {
		titles = append(titles, "KIND")
	}
	titles = append(titles, "HOURS", "NOW/H", "COST")
	if costs.UnconfirmedUSD > 0 {
		titles = append(titles, "UNCONFIRMED")
	}
	tb := &term.Table{Columns: term.Columns(titles...)}
	for _, r := range costs.Rows {
		var texts []string
		for _, b := range by {
			texts = append(texts, cell(r, b))
		}
		if kinds {
			texts = append(texts, r.Kind)
		}
		texts = append(texts, hours(r.Hours), format.Cost(r.HourlyUSD), format.Price(r.CostUSD))
		row := term.Row{}
		if costs.UnconfirmedUSD > 0 {
			texts = append(texts, format.Cost(r.UnconfirmedUSD))
		}
		if r.UnconfirmedUSD > 0 {
			row.Style = term.Error
		}
		for _, text := range texts {
			row.Cells = append(row.Cells, term.Text(text))
		}
		tb.Rows = append(tb.Rows, row)
	}
	return tb
}

// cell is what a row says of a grouping.
func cell(r api.CostRow, by api.CostBy) string {
	text := map[api.CostBy]*string{
		api.CostByProject: r.Project, api.CostByFleet: r.Fleet, api.CostByInstance: r.Instance, api.CostByBackend: r.Backend,
		api.CostByRun: r.Run, api.CostByUser: r.User, api.CostByDay: r.Day,
	}[by]
	switch {
	case text != nil && by == api.CostByProject && r.ProjectDeleted:
		return deleted(*text, r.ProjectID)
	case text != nil && by == api.CostByFleet && r.FleetDeleted:
		return deleted(*text, r.FleetID)
	case text != nil:
		return *text
	case by == api.CostByRun, by == api.CostByUser:
		return "(idle)"
	}
	return ""
}

// deleted marks a name that others may have, with the beginning of the id.
func deleted(name string, id *string) string {
	if id == nil {
		return name + " (deleted)"
	}
	return fmt.Sprintf("%s (deleted, %.8s)", name, *id)
}

func hours(h float64) string {
	if h == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f", h)
}

func summary(c api.Costs) string {
	text := "In all " + format.Price(c.CostUSD)
	if c.HourlyUSD > 0 {
		text += fmt.Sprintf(", and %s per hour goes on", format.Price(c.HourlyUSD))
	}
	if c.UnconfirmedUSD > 0 {
		text += fmt.Sprintf(". Of it %s is for what could not be confirmed to be gone or there: an administrator sees more with `dstack server doctor`", format.Price(c.UnconfirmedUSD))
	}
	return text + "."
}
