package apply

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"dstack/internal/api"
	"dstack/internal/cli/attach"
	"dstack/internal/cli/fleet"
	"dstack/internal/cli/format"
	"dstack/internal/cli/offer"
	"dstack/internal/cli/profile"
	"dstack/internal/cli/program"
	"dstack/internal/cli/specdiff"
	"dstack/internal/cli/term"
	"dstack/internal/config"
)

const fleetOffers = 3 // rows of the plan

// applyFleet plans a fleet, asks, creates or changes it, and waits until its instances are there.
func applyFleet(ctx context.Context, o Options, f File) error {
	if err := o.prepareFleet(f.Fleet, f.dir); err != nil {
		return err
	}
	prof, err := profile.Find(o.Program, "")
	if err != nil {
		return err
	}
	c, err := o.Connect(o.Project)
	if err != nil {
		return err
	}
	fa := fleetApply{Options: o, conn: c}
	err = o.While("Getting apply plan...", func() (err error) {
		fa.plan, err = c.GetFleetPlan(ctx, c.Project, api.GetFleetPlanRequest{
			Spec: api.FleetSpec{Configuration: *f.Fleet, ConfigurationPath: &f.Path, Profile: *prof},
		})
		return err
	})
	if err != nil {
		return err
	}
	fa.print()
	d, err := fa.decide()
	if err != nil {
		return err
	}
	if ok, err := o.approved(ctx, d); err != nil || !ok {
		return err
	}
	return fa.execute(ctx, d)
}

// prepareFleet resolves variables, and reads the keys of the hosts.
func (o Options) prepareFleet(f *config.Fleet, dir string) error {
	if err := o.env(f.Env); err != nil {
		return err
	}
	s := f.SSHConfig
	if s == nil {
		if len(f.Env) > 0 {
			return errors.New("`env` is currently supported for SSH fleets only")
		}
		return nil
	}
	var err error
	if s.SSHKey, err = o.hostKey(dir, s.IdentityFile); err != nil {
		return err
	}
	if err := o.proxyKey(dir, s.ProxyJump); err != nil {
		return err
	}
	for i := range s.Hosts {
		h := &s.Hosts[i]
		if h.SSHKey, err = o.hostKey(dir, h.IdentityFile); err != nil {
			return err
		}
		if err := o.proxyKey(dir, h.ProxyJump); err != nil {
			return err
		}
	}
	return nil
}

func (o Options) proxyKey(dir string, p *config.SSHProxy) error {
	if p == nil {
		return nil
	}
	key, err := o.hostKey(dir, &p.IdentityFile)
	p.SSHKey = key
	return err
}

// hostKey reads a private key that the server will use to reach a host. Relative paths count from the working directory.
func (o Options) hostKey(dir string, path *string) (*config.SSHKey, error) {
	if path == nil || *path == "" {
		return nil, nil
	}
	wd, err := o.WorkDir()
	if err != nil {
		wd = dir
	}
	full := o.Path(wd, *path)
	public, err := attach.PublicKey(full)
	if err != nil {
		return nil, err
	}
	private, err := os.ReadFile(full)
	if err != nil {
		return nil, fmt.Errorf("Unable to read the SSH key at %s", full)
	}
	text := string(private)
	return &config.SSHKey{Public: public, Private: &text}, nil
}

type fleetApply struct {
	Options
	conn *program.Conn
	plan api.FleetPlan
}

func (fa *fleetApply) effective() api.FleetSpec {
	if fa.plan.EffectiveSpec != nil {
		return *fa.plan.EffectiveSpec
	}
	return fa.plan.Spec
}

func (fa *fleetApply) print() {
	spec := fa.effective()
	c := spec.Configuration
	ssh := c.SSHConfig != nil
	params := config.Merge(&spec.Profile, c.Params())
	facts := [][2]string{
		{"Project", fa.plan.ProjectName},
		{"User", fa.plan.User},
		{"Configuration", cmp.Or(format.Text(spec.ConfigurationPath), "?")},
		{"Type", "fleet"},
		{"Fleet type", "cloud"},
		{"Nodes", planNodes(c)},
		{"Placement", cmp.Or(format.Text(c.Placement), "any")},
	}
	if ssh {
		facts[4][1] = "ssh"
	}
	if len(params.Backends) > 0 {
		facts = append(facts, [2]string{"Backends", strings.Join(params.Backends, ", ")})
	}
	if len(params.Regions) > 0 {
		facts = append(facts, [2]string{"Regions", strings.Join(params.Regions, ", ")})
	}
	if !ssh {
		if c.Resources != nil {
			facts = append(facts, [2]string{"Resources", format.Requirements(*c.Resources)})
		}
		facts = append(facts, [2]string{"Spot policy", cmp.Or(format.Text(params.SpotPolicy), "on-demand")})
	}
	if params.Reservation != nil {
		facts = append(facts, [2]string{"Reservation", *params.Reservation})
	}
	fa.Facts(facts)
	fa.Println()
	switch {
	case len(fa.plan.Offers) > 0:
		fa.printOffers()
	case !ssh && fa.plan.WhyNot != nil && fa.plan.WhyNot.Fit > 0:
		fa.Println(fmt.Sprintf("No instance is created before a run needs one. %d of %d offers would do.", fa.plan.WhyNot.Fit, fa.plan.WhyNot.Considered))
		fa.Println()
	case !ssh:
		fa.Println(fa.Paint(term.Warning, offer.None))
		if !offer.PrintFleetNotes(fa.IO, fa.plan) {
			fa.Println()
		}
		return
	}
	offer.PrintFleetNotes(fa.IO, fa.plan)
}

func (fa *fleetApply) printOffers() {
	tb := &term.Table{Columns: term.Columns("#", "BACKEND", "REGION", "INSTANCE", "RESOURCES", "SPOT", "PRICE", "")}
	shown := fa.plan.Offers[:min(fleetOffers, len(fa.plan.Offers))]
	for i, of := range shown {
		spot := "no"
		if of.Instance.Resources.Spot {
			spot = "yes"
		}
		tb.Add(strconv.Itoa(i+1), format.Backend(string(of.Backend), ""), of.Region, of.Instance.Name,
			format.Resources(of.Instance.Resources), spot, format.Price(of.Price), offer.State(of, fa.plan.LoweredOffers))
	}
	if fa.plan.TotalOffers > len(shown) {
		tb.Add("", "...")
	}
	fa.Print(tb)
	if fa.plan.TotalOffers > len(shown) {
		line := fmt.Sprintf("Shown %d of %d offers", len(shown), fa.plan.TotalOffers)
		if fa.plan.MaxOfferPrice != nil {
			line += ", " + format.MaxPrice(fa.plan.MaxOfferPrice) + " max"
		}
		fa.Println(fa.Paint(term.Secondary, " "+line))
	}
	fa.Println()
}

func planNodes(f config.Fleet) string {
	switch {
	case f.SSHConfig != nil:
		return strconv.Itoa(len(f.SSHConfig.Hosts))
	case f.Nodes == nil:
		return "-"
	}
	s := fmt.Sprintf("min=%d target=%d", f.Nodes.Min, f.Nodes.Target)
	if f.Nodes.Max != nil {
		s += fmt.Sprintf(" max=%d", *f.Nodes.Max)
	}
	return s
}

// keysOfSpec are left out when specifications are compared: the server does not show them.
var keysOfSpec = []string{"ssh_key", "autocreated"}

func (fa *fleetApply) decide() (decision, error) {
	current := fa.plan.CurrentResource
	spec := fa.effective()
	if current == nil {
		d := decision{question: "Create the fleet?"}
		if n := spec.Configuration.Name; n != nil {
			d.message = fmt.Sprintf("Fleet %s does not exist yet.", *n)
		}
		return d, nil
	}
	items, err := specdiff.Spec(current.Spec, spec, keysOfSpec...)
	if err != nil {
		return decision{}, err
	}
	found := fmt.Sprintf("Found fleet %s.", current.Name)
	update := fa.plan.Action != nil && *fa.plan.Action == api.ActionUpdate
	switch {
	case len(items) == 0:
		return decision{
			message: found + " No configuration changes detected.", question: "Re-create the fleet?", same: true, override: true,
		}, nil
	case update:
		return decision{
			message: found + " Detected changes that can be updated in-place:\n" + specdiff.Text(items), question: "Update the fleet in-place?",
		}, nil
	default:
		return decision{
			message: found + " Detected changes that cannot be updated in-place:\n" + specdiff.Text(items), question: "Re-create the fleet?",
			override: true,
		}, nil
	}
}

func (fa *fleetApply) execute(ctx context.Context, d decision) error {
	if d.override {
		if err := fa.While("Deleting existing fleet...", func() error { return fa.delete(ctx) }); err != nil {
			return err
		}
	}
	req := api.ApplyFleetPlanRequest{}
	req.Plan.Spec = fa.plan.Spec
	if fa.plan.CurrentResource != nil {
		current, err := json.Marshal(fa.plan.CurrentResource)
		if err != nil {
			return fmt.Errorf("apply the plan: %w", err)
		}
		req.Plan.CurrentResource = current
	}
	var fl api.Fleet
	err := fa.While("Applying plan...", func() (err error) {
		fl, err = fa.conn.ApplyFleetPlan(ctx, fa.conn.Project, req)
		return err
	})
	if err != nil {
		return err
	}
	if fa.Detach {
		fa.Println("Fleet configuration submitted. Exiting...")
		return nil
	}
	fl, err = fa.wait(ctx, fl)
	if ctx.Err() != nil {
		return fa.interrupted(ctx, fl.Name)
	}
	if err != nil {
		return err
	}
	return fa.finish(fl)
}

// delete deletes the current fleet and waits until it is gone.
func (fa *fleetApply) delete(ctx context.Context) error {
	name := fa.plan.CurrentResource.Name
	if err := fa.conn.DeleteFleets(ctx, fa.conn.Project, api.DeleteFleetsRequest{Names: []string{name}}); err != nil {
		return err
	}
	return fleet.WaitGone(ctx, fa.conn, name)
}

// wait returns the fleet once no instance is on its way.
func (fa *fleetApply) wait(ctx context.Context, fl api.Fleet) (api.Fleet, error) {
	return progress[api.Fleet]{
		title: func(fl api.Fleet) string {
			if fl.StatusMessage == nil {
				return provisioning(fl.Name)
			}
			return provisioning(fl.Name) + " " + *fl.StatusMessage
		},
		table: func(fl api.Fleet) *term.Table {
			return fleet.Table([]api.Fleet{fl}, fleet.TableOptions{Project: fa.conn.Project, Verbose: fa.Verbose, Now: fa.Time()})
		},
		settled: ready,
		get: func(ctx context.Context) (api.Fleet, error) {
			return fa.conn.GetFleet(ctx, fa.conn.Project, api.GetFleetRequest{Name: &fl.Name})
		},
	}.wait(ctx, fa.Options, fl)
}

// ready says that no instance of the fleet is on its way.
func ready(f api.Fleet) bool {
	for _, inst := range f.Instances {
		switch inst.Status {
		case api.InstancePending, api.InstanceProvisioning, api.InstanceTerminating:
			return false
		}
	}
	return true
}

func (fa *fleetApply) finish(fl api.Fleet) error {
	failed, active := false, 0
	for _, inst := range fl.Instances {
		if inst.Status == api.InstanceTerminated {
			failed = true
		} else {
			active++
		}
	}
	fa.Print(fleet.Table([]api.Fleet{fl}, fleet.TableOptions{
		Project: fa.conn.Project, Verbose: fa.Verbose || failed, Now: fa.Time(), Clock: true,
	}))
	if !failed {
		return nil
	}
	if n := fl.Spec.Configuration.Nodes; n != nil && active < n.Min {
		fa.failure("Some instances failed. Provisioning will be retried in the background.")
	} else {
		fa.failure("Some instances failed. Check the table above for errors.")
	}
	return term.Exit(1)
}

// interrupted asks after Ctrl+C whether the fleet shall be deleted.
func (fa *fleetApply) interrupted(ctx context.Context, name string) error {
	return fa.leave(ctx, "Fleet", func(ctx context.Context) error {
		return fa.conn.DeleteFleets(ctx, fa.conn.Project, api.DeleteFleetsRequest{Names: []string{name}})
	})
}

// leave asks after Ctrl+C whether what is being created shall be deleted.
func (o Options) leave(ctx context.Context, kind string, del func(context.Context) error) error {
	ctx, done := o.Interruptible(ctx)
	defer done()
	if !o.Yes {
		yes, err := o.Confirm(ctx, fmt.Sprintf("\nDelete the %s before exiting?", strings.ToLower(kind)), "-y")
		if errors.Is(err, term.ErrCancelled) {
			return err
		}
		if err == nil && yes {
			return del(ctx)
		}
	}
	o.Printf("Exiting... %s provisioning will continue in the background.\n", kind)
	return nil
}
