package apply

import (
	"cmp"
	"fmt"
	"strings"

	"dstack/internal/api"
	"dstack/internal/cli/format"
	"dstack/internal/cli/offer"
	"dstack/internal/cli/specdiff"
	"dstack/internal/cli/term"
	"dstack/internal/config"
)

// printRunPlan shows what would run, and where.
func (o Options) printRunPlan(plan api.RunPlan, hasFleets func() (bool, error)) error {
	o.Facts(o.runFacts(plan))
	o.Println()
	jp := plan.JobPlans[0]
	if len(jp.Offers) > 0 {
		offer.Listing{Offers: jp.Offers, Total: jp.TotalOffers, MaxPrice: jp.MaxPrice, Show: o.MaxOffers, Dim: true, Lowered: plan.LoweredOffers}.Print(o.IO)
		offer.PrintPlanNotes(o.IO, plan)
		return nil
	}
	ok, err := hasFleets()
	if err != nil {
		return err
	}
	if !ok { // nothing else matters
		o.Println(o.Paint(term.Error, offer.NoFleets) + "\n")
		return nil
	}
	o.Println(o.Paint(term.Warning, offer.None))
	if !offer.PrintPlanNotes(o.IO, plan) {
		o.Println()
	}
	return nil
}

func (o Options) runFacts(plan api.RunPlan) [][2]string {
	spec := plan.RunSpec
	if plan.EffectiveRunSpec != nil {
		spec = *plan.EffectiveRunSpec
	}
	js := plan.JobPlans[0].JobSpec
	req := js.Requirements
	params := config.Merge(spec.Profile, spec.Configuration.Common().ProfileParams)
	facts := [][2]string{
		{"Project", plan.ProjectName},
		{"User", plan.User},
		{"Type", typeName(spec.Configuration)},
		{"Resources", format.Requirements(req.Resources)},
		{"Spot policy", format.SpotPolicy(req.Spot)},
		{"Max price", format.MaxPrice(req.MaxPrice)},
		{"Retry policy", retryName(js.Retry)},
	}
	creation := "reuse-or-create"
	if params.CreationPolicy != nil {
		creation = *params.CreationPolicy
	}
	if o.Verbose || creation != "reuse-or-create" {
		facts = append(facts, [2]string{"Creation policy", creation})
	}
	idle := "5m"
	if d := params.IdleDuration; d != nil {
		idle = format.Seconds(int64(*d))
		if *d < 0 {
			idle = "-"
		}
	}
	facts = append(facts, [2]string{"Idle duration", idle}, [2]string{"Max duration", offOr(js.MaxDuration)})
	if dev := spec.Configuration.DevEnvironment; dev != nil {
		inactivity := "off"
		if dev.InactivityDuration != nil {
			inactivity = format.Seconds(int64(*dev.InactivityDuration))
		}
		facts = append(facts, [2]string{"Inactivity duration", inactivity})
	}
	if o.Verbose || params.Reservation != nil {
		reservation := "no"
		if params.Reservation != nil {
			reservation = *params.Reservation
		}
		facts = append(facts, [2]string{"Reservation", reservation})
	}
	return facts
}

func typeName(c config.AnyRun) string {
	if c.Task == nil {
		return c.Type()
	}
	nodes := 0
	for _, g := range c.Task.Groups {
		nodes += g.Nodes
	}
	if c.Task.Groups == nil {
		nodes = 1
		if c.Task.Nodes != nil {
			nodes = *c.Task.Nodes
		}
	}
	return fmt.Sprintf("task (nodes=%d)", nodes)
}

func retryName(r *api.Retry) string {
	if r == nil {
		return "off"
	}
	return fmt.Sprintf("%s[%s]", format.Seconds(r.Duration), strings.Join(r.OnEvents, ", "))
}

func offOr(seconds *int64) string {
	if seconds == nil {
		return "off"
	}
	return format.Seconds(*seconds)
}

// A decision is what the plan means for what exists.
type decision struct {
	message  string
	question string
	// override: the active run is stopped first; same: nothing changed.
	override, same bool
	done           string // the word for what was done: submitted, updated
}

func decide(plan api.RunPlan) (decision, error) {
	current := plan.CurrentResource
	name := ""
	if n := plan.RunSpec.RunName; n != nil {
		name = *n
	}
	if current == nil || current.Status.Finished() && plan.Action == api.ActionCreate {
		q := fmt.Sprintf("Submit the run %s?", name)
		if name == "" {
			q = "Submit a new run?"
		}
		return decision{question: q, done: "submitted"}, nil
	}
	spec := plan.RunSpec
	if plan.EffectiveRunSpec != nil {
		spec = *plan.EffectiveRunSpec
	}
	items, err := specdiff.Spec(current.RunSpec, spec)
	if err != nil {
		return decision{}, err
	}
	exists := fmt.Sprintf("Active run %s already exists.", cmp.Or(name, "?"))
	switch {
	case plan.Action == api.ActionUpdate && len(items) > 0:
		return decision{
			message:  exists + " Detected changes that can be updated in-place:\n" + specdiff.Text(items),
			question: "Update the run?", done: "updated",
		}, nil
	case plan.Action == api.ActionUpdate:
		return decision{
			message: exists + " Detected no changes.", question: "Stop and override the run?",
			override: true, same: true, done: "submitted",
		}, nil
	default:
		return decision{
			message:  exists + " Detected changes that cannot be updated in-place:\n" + specdiff.Text(items),
			question: "Stop and override the run?", override: true, done: "submitted",
		}, nil
	}
}
