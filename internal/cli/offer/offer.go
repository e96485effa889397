// Package offer is `dstack offer`, and the table of offers that plans show too.
package offer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"dstack/internal/api"
	"dstack/internal/cli/client"
	"dstack/internal/cli/format"
	"dstack/internal/cli/override"
	"dstack/internal/cli/profile"
	"dstack/internal/cli/program"
	"dstack/internal/cli/term"
	"dstack/internal/config"
)

// Options are what the user says.
type Options struct {
	*program.Program
	Project     string
	Format      string
	JSON        bool
	GroupBy     []string
	MaxOffers   int
	FullOffers  bool
	Unallocated bool
	Catalog     bool     // list prices instead of a server
	Files       []string // catalogs to read them from
	Providers   []string // whose list prices, all without any
	Override    override.Flags
}

// New returns the command.
func New(p *program.Program) *cobra.Command {
	o := Options{Program: p}
	cmd := &cobra.Command{
		Use:   "offer [file...]",
		Short: "List offers",
		Long: "List what could be had: instances of the project's fleets and offers of its backends, with prices. " +
			"With --catalog, list prices of all clouds instead, without a server or an account.",
		Args: func(cmd *cobra.Command, args []string) error {
			if !o.Catalog {
				return cobra.NoArgs(cmd, args)
			}
			return o.takeProviders()
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Files = args
			return Run(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	program.ProjectFlag(f, &o.Project)
	f.StringVar(&o.Format, "format", "plain", "plain or json")
	f.BoolVar(&o.JSON, "json", false, "the same as --format json")
	f.StringArrayVar(&o.GroupBy, "group-by", nil, "summarize by gpu, and also by backend, region or count; comma-separated, repeatable")
	f.IntVar(&o.MaxOffers, "max-offers", 50, "the most offers to list")
	f.BoolVar(&o.FullOffers, "full-offers", false, "show offers with all the resources of their instances")
	f.BoolVar(&o.Unallocated, "unallocated", false, "show only resources that are not allocated yet")
	f.BoolVar(&o.Catalog, "catalog", false, "search list prices: those that come with this program or that dstack catalog refresh has collected, or of the catalogs given as <provider>.csv or zip files or by $GPUHUNT_CATALOG_DIR")
	o.Override.AddResources(f)
	o.Override.AddProfile(cmd)
	for _, name := range []string{"project", "fleet", "reuse", "full-offers", "unallocated"} { // of a server
		cmd.MarkFlagsMutuallyExclusive("catalog", name)
	}
	return cmd
}

// maxOffers is the most that servers list.
const maxOffers = 10_000

// Run lists offers.
func Run(ctx context.Context, o Options) error {
	if o.Format != "plain" && o.Format != "json" {
		return fmt.Errorf("unknown format %q: use plain or json", o.Format)
	}
	switch { // in the words of the server
	case o.MaxOffers < 1:
		return errors.New("--max-offers: Input should be greater than or equal to 1")
	case o.MaxOffers > maxOffers:
		return fmt.Errorf("--max-offers: Input should be less than or equal to %d", maxOffers)
	}
	o.JSON = o.JSON || o.Format == "json"
	group, err := groups(o.GroupBy)
	if err != nil {
		return err
	}
	spec, err := o.spec()
	if err != nil {
		return err
	}
	if o.Catalog {
		return o.catalog(ctx, spec, group)
	}
	c, err := o.Connect(o.Project)
	if err != nil {
		return err
	}
	if len(group) > 0 {
		return o.grouped(ctx, c, spec, group)
	}
	return o.list(ctx, c, spec)
}

// groups checks what --group-by says.
func groups(given []string) ([]string, error) {
	var all, bad []string
	for _, g := range given {
		for name := range strings.SplitSeq(g, ",") {
			name = strings.TrimSpace(name)
			if !slices.Contains([]string{"backend", "count", "gpu", "region"}, name) {
				return nil, fmt.Errorf("Invalid group-by value: '%s'. Valid choices are: backend, count, gpu, region", name)
			}
			if !slices.Contains(all, name) {
				all = append(all, name)
			}
		}
	}
	if len(all) == 0 || slices.Contains(all, "gpu") {
		return all, nil
	}
	bad = append(bad, all...)
	return nil, fmt.Errorf("Cannot group by '%s' without also grouping by 'gpu'", strings.Join(bad, ", "))
}

// spec is a run that asks for as little as possible, and what the options add.
func (o Options) spec() (api.RunSpec, error) {
	var run config.AnyRun
	const least = `{"type": "task", "commands": [":"], "image": "scratch", "user": "root",
		"resources": {"cpu": {"count": {"min": 1}}, "memory": {"min": 0}, "gpu": {"count": {"min": 0}}, "disk": null}}`
	if err := run.UnmarshalJSON([]byte(least)); err != nil {
		return api.RunSpec{}, fmt.Errorf("prepare the question for offers: %w", err)
	}
	c := run.Common()
	if err := o.Override.Resources(&c.Resources); err != nil {
		return api.RunSpec{}, err
	}
	if err := o.Override.Params(&c.ProfileParams); err != nil {
		return api.RunSpec{}, err
	}
	prof, err := profile.Load(o.Program, o.Override)
	if err != nil {
		return api.RunSpec{}, err
	}
	return api.RunSpec{Configuration: run, Profile: prof, FileArchives: []api.FileArchiveMapping{}}, nil
}

type requirements struct {
	Resources   config.Resources `json:"resources"`
	MaxPrice    *float64         `json:"max_price"`
	Spot        *bool            `json:"spot"`
	Reservation *string          `json:"reservation"`
}

// wanted are the requirements as the client sees them: without a policy both kinds of instances.
func wanted(spec api.RunSpec) requirements {
	p := spec.Merged()
	r := requirements{Resources: spec.Configuration.Common().Resources, MaxPrice: p.MaxPrice, Reservation: p.Reservation}
	if p.SpotPolicy != nil && *p.SpotPolicy != "auto" {
		spot := *p.SpotPolicy == "spot"
		r.Spot = &spot
	}
	return r
}

func (o Options) list(ctx context.Context, c *program.Conn, spec api.RunSpec) error {
	var plan api.RunPlan
	err := o.While("Getting offers...", func() (err error) {
		plan, err = c.GetRunPlan(ctx, c.Project, client.RunPlanRequest{
			GetRunPlanRequest: api.GetRunPlanRequest{RunSpec: spec, MaxOffers: &o.MaxOffers, ForOffersOnly: true},
			FullOffers:        o.FullOffers, UnallocatedResources: o.Unallocated,
		})
		return err
	})
	if err != nil {
		return err
	}
	if len(plan.JobPlans) == 0 {
		return fmt.Errorf("the server's plan has no jobs")
	}
	jp := plan.JobPlans[0]
	if o.JSON {
		return o.PrintCompactJSON(struct {
			Project      string              `json:"project"`
			User         string              `json:"user"`
			Requirements requirements        `json:"requirements"`
			Offers       []api.InstanceOffer `json:"offers"`
			TotalOffers  int                 `json:"total_offers"`

			WhyNot *api.WhyNot `json:"why_not,omitempty"`
			api.PlanNotes
		}{c.Project, plan.User, wanted(spec), append([]api.InstanceOffer{}, jp.Offers...), jp.TotalOffers, jp.WhyNot, plan.PlanNotes})
	}
	req := jp.JobSpec.Requirements
	o.Facts([][2]string{
		{"Project", c.Project},
		{"Resources", format.Requirements(req.Resources)},
		{"Spot policy", format.SpotPolicy(req.Spot)},
		{"Max price", format.MaxPrice(req.MaxPrice)},
	})
	o.Println()
	if len(jp.Offers) == 0 {
		o.Println(o.Paint(term.Warning, None))
		PrintPlanNotes(o.IO, plan)
		return nil
	}
	hint := len(spec.Merged().Fleets) == 0
	early := hint && jp.TotalOffers == len(jp.Offers) && jp.TotalOffers < 3
	const text = "Hint: Existing fleets are ignored, and all available offers are shown. To filter by fleet, pass --fleet NAME."
	if early {
		o.Println(o.Paint(term.Secondary, text) + "\n")
	}
	Listing{Offers: jp.Offers, Total: jp.TotalOffers, MaxPrice: jp.MaxPrice, Lowered: plan.LoweredOffers}.Print(o.IO)
	if hint && !early {
		o.Println(o.Paint(term.Secondary, text))
		if slices.ContainsFunc(plan.JobPlans, func(jp api.JobPlan) bool { return jp.WhyNot != nil }) {
			o.Println()
		}
	}
	PrintPlanNotes(o.IO, plan)
	return nil
}
