package offer

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"dstack/internal/api"
	"dstack/internal/cli/term"
)

func TestPrintPlanNotes(t *testing.T) {
	why := &api.WhyNot{Considered: 12, Excluded: []api.Exclusion{{Requirement: "max_price", Excludes: 9, Alone: 3, From: new(19.2), Unavailable: 2}, {Requirement: "gpu", Excludes: 4}}}
	fits, away := *why, *why
	fits.Fit = 1
	away.Unavailable = []api.Unavailable{{Availability: api.NoQuota, Count: 2}, {Availability: api.Busy, Count: 1}}
	of := func(w *api.WhyNot) api.RunPlan { return api.RunPlan{JobPlans: []api.JobPlan{{WhyNot: w}}} }
	const table = `
 REQUIREMENT  EXCLUDES  WITHOUT IT
 max_price    9         3 more from $19.2, 2 not available now
 gpu          4         -

`
	const best = "Without `max_price` 3 more would fit, from $19.2: try `--max-price 19.2`.\n"
	for name, tt := range map[string]struct {
		plan api.RunPlan
		want string
	}{
		"all is well":            {api.RunPlan{JobPlans: []api.JobPlan{{TotalOffers: 50}}}, ""},
		"nothing fits":           {of(why), "None of 12 offers fits.\n" + best + table},
		"some fit, but are away": {of(&away), "3 of 12 offers would do, but not now: 2 no quota, 1 busy.\n" + best + table},
		"little fits, a backend is silent": {api.RunPlan{
			PlanNotes: api.PlanNotes{BackendProblems: []api.BackendProblem{{Backend: "lambda", Message: "has not answered for 9s; its offers are missing"}}},
			JobPlans:  []api.JobPlan{{TotalOffers: 1, WhyNot: &fits}},
		}, "Backend lambda has not answered for 9s; its offers are missing.\n" + best + table},
		"a host of one's own": {of(&api.WhyNot{Considered: 1, Excluded: []api.Exclusion{{Requirement: "cpu", Excludes: 1, Alone: 1}}}), `The only offer there is does not fit.
Without ` + "`cpu`" + ` 1 more would fit.

`},
		"a fleet's setting": {of(&api.WhyNot{Considered: 2, Reasons: []string{"Fleet is at capacity"}, Excluded: []api.Exclusion{{Requirement: "nodes", Fleet: "cloud", Excludes: 2, Alone: 2, From: new(3.0)}, {Requirement: "gpu", Excludes: 1}}}),
			`None of 2 offers fits.
Fleet is at capacity.
Without ` + "`nodes`" + ` of fleet cloud 2 more would fit, from $3: change the fleet's configuration and apply it.

 REQUIREMENT         EXCLUDES  WITHOUT IT
 fleet cloud: nodes  2         2 more from $3
 gpu                 1         -

`},
		"machines without GPUs": {of(&api.WhyNot{Considered: 2, Excluded: []api.Exclusion{{Requirement: "gpu", Excludes: 2}}}), "None of 2 offers fits.\nAll offers that do not fit lack a GPU.\n\n"},
		"nothing at all": {of(&api.WhyNot{Reasons: []string{"The project has no backends that could create instances"}}), `There are no offers.
The project has no backends that could create instances.

`},
		"no single one": {of(&api.WhyNot{Considered: 2, Excluded: []api.Exclusion{{Requirement: "cpu", Excludes: 2}, {Requirement: "memory", Excludes: 2}}}), `None of 2 offers fits.
Leaving out one requirement alone lets no more offers fit:

 REQUIREMENT  EXCLUDES  WITHOUT IT
 cpu          2         -
 memory       2         -

`},
		"many": {of(&api.WhyNot{Considered: 1, Excluded: slices.Repeat([]api.Exclusion{{Requirement: "cpu", Excludes: 1}}, 7)}), `The only offer there is does not fit.
Leaving out one requirement alone lets no more offers fit:

 REQUIREMENT  EXCLUDES  WITHOUT IT
` + strings.Repeat(" cpu          1         -\n", 5) + ` ...

`},
		"another job of several": {api.RunPlan{JobPlans: []api.JobPlan{{WhyNot: &fits}, {JobSpec: api.JobSpec{JobName: "run-0-1"}, WhyNot: &api.WhyNot{Excluded: []api.Exclusion{}}}}}, "Job run-0-1:\nThere are no offers.\n\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			PrintPlanNotes(term.New(strings.NewReader(""), &out, &out), tt.plan)
			if got := trimmed(out.String()); got != tt.want {
				t.Errorf("printed\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}
