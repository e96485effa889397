package offer

import (
	"bytes"
	"strings"
	"testing"

	"dstack/internal/api"
	"dstack/internal/cli/term"
)

func TestPrintPlanNotes(t *testing.T) {
	why := &api.WhyNot{Considered: 12, Excluded: []api.Exclusion{{Requirement: "max_price", Excludes: 9, Alone: 3, From: 19.2}, {Requirement: "gpu", Excludes: 4}}}
	fits := *why
	fits.Fit = 1
	for name, tt := range map[string]struct {
		plan api.RunPlan
		want string
	}{
		"all is well": {api.RunPlan{JobPlans: []api.JobPlan{{TotalOffers: 50}}}, ""},
		"nothing fits": {api.RunPlan{JobPlans: []api.JobPlan{{WhyNot: why}}}, `None of 12 offers fits.

 REQUIREMENT  EXCLUDES  WITHOUT IT
 max_price    9         3 more from $19.2
 gpu          4         -

Without ` + "`max_price`" + ` 3 more would fit, from $19.2.

`},
		"little fits, a backend is silent": {api.RunPlan{
			BackendProblems: []api.BackendProblem{{Backend: "lambda", Message: "has not answered for 9s; its offers are missing"}},
			JobPlans:        []api.JobPlan{{TotalOffers: 1, WhyNot: &fits}},
		}, `Backend lambda has not answered for 9s; its offers are missing.

 REQUIREMENT  EXCLUDES  WITHOUT IT
 max_price    9         3 more from $19.2
 gpu          4         -

Without ` + "`max_price`" + ` 3 more would fit, from $19.2.

`},
		"a host of one's own": {api.RunPlan{JobPlans: []api.JobPlan{{WhyNot: &api.WhyNot{Considered: 1, Excluded: []api.Exclusion{{Requirement: "cpu", Excludes: 1, Alone: 1}}}}}}, `The only offer there is does not fit.

 REQUIREMENT  EXCLUDES  WITHOUT IT
 cpu          1         1 more

Without ` + "`cpu`" + ` 1 more would fit.

`},
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
