package offer

import (
	"fmt"
	"strconv"

	"dstack/internal/api"
	"dstack/internal/cli/format"
	"dstack/internal/cli/term"
)

// PrintWhyNot says what each requirement excludes, and without which most would fit.
func PrintWhyNot(t *term.IO, list []api.Exclusion) {
	if len(list) == 0 {
		return // everything fits
	}
	t.Println()
	tb := &term.Table{Columns: term.Columns("REQUIREMENT", "EXCLUDES", "WITHOUT IT")}
	for _, e := range list {
		without := "-"
		if e.Alone > 0 {
			without = more(e)
		}
		tb.Add(e.Requirement, strconv.Itoa(e.Excludes), without)
	}
	t.Print(tb)
	t.Println()
	if best := list[0]; best.Alone > 0 {
		t.Println(fmt.Sprintf("Without `%s` %d more would fit%s.", best.Requirement, best.Alone, from(best, ", from ")))
	} else {
		t.Println("Leaving out a single one of them is not enough.")
	}
}

// more is what leaving out a requirement gives.
func more(e api.Exclusion) string { return fmt.Sprintf("%d more", e.Alone) + from(e, " from ") }

// from is the lowest price after some words, "" for hosts that cost nothing.
func from(e api.Exclusion, words string) string {
	if e.From == 0 {
		return ""
	}
	return words + format.Price(e.From)
}

// PrintPlanNotes says what a plan's offers leave open: backends that do not answer, and why few
// of the others fit.
func PrintPlanNotes(t *term.IO, plan api.RunPlan) {
	for _, p := range plan.BackendProblems {
		t.Println(t.Paint(term.Warning, fmt.Sprintf("Backend %s %s.", format.Backend(string(p.Backend), ""), p.Message)))
	}
	if len(plan.JobPlans) == 0 || plan.JobPlans[0].WhyNot == nil {
		return
	}
	why := plan.JobPlans[0].WhyNot
	switch {
	case why.Fit > 0:
	case why.Considered == 1:
		t.Println(t.Paint(term.Warning, "The only offer there is does not fit."))
	default:
		t.Println(t.Paint(term.Warning, fmt.Sprintf("None of %d offers fits.", why.Considered)))
	}
	PrintWhyNot(t, why.Excluded)
	t.Println()
}
