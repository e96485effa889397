package offer

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"dstack/internal/api"
	"dstack/internal/cli/format"
	"dstack/internal/cli/term"
	"dstack/internal/scheduler"
)

// maxExclusions is how many rows say what excludes offers.
const maxExclusions = 5

// printWhyNot says without what most would fit, with what leaves it out, and what each requirement
// excludes.
func printWhyNot(t *term.IO, list []api.Exclusion, next func(api.Exclusion) string) {
	if len(list) == 0 {
		return // everything fits
	}
	t.Println(best(list, next))
	if only := list[0]; len(list) == 1 && only.Unavailable == 0 && (only.Alone > 0 || only.Requirement == "gpu") {
		return // nothing else to say
	}
	t.Println()
	tb := &term.Table{Columns: term.Columns("REQUIREMENT", "EXCLUDES", "WITHOUT IT")}
	for _, e := range list[:min(len(list), maxExclusions)] {
		tb.Add(requirement(e), strconv.Itoa(e.Excludes), without(e))
	}
	if len(list) > maxExclusions {
		tb.Add("...")
	}
	t.Print(tb)
}

// best is what helps most, and what to do next for it.
func best(list []api.Exclusion, next func(api.Exclusion) string) string {
	e := list[0]
	name := "`" + e.Requirement + "`"
	if e.Fleet != "" {
		name += " of fleet " + e.Fleet
	}
	switch {
	case e.Requirement == "gpu" && len(list) == 1:
		return "All offers that do not fit lack a GPU."
	case e.Alone == 0:
		return "Leaving out one requirement alone lets no more offers fit:"
	}
	return fmt.Sprintf("Without %s %d more would fit%s%s", name, e.Alone, from(e, ", from "), next(e))
}

// option is how one leaves out a requirement of a run.
func option(e api.Exclusion) string {
	switch {
	case e.Fleet != "":
		return ": change the fleet's configuration and apply it."
	case e.Requirement == "max_price" && e.From != nil && *e.From > 0:
		return fmt.Sprintf(": try `--max-price %s`.", strconv.FormatFloat(*e.From, 'f', -1, 64)) // not rounded: it has to fit
	case e.Requirement == "spot_policy":
		return ": try `--spot-auto`."
	}
	return "."
}

func requirement(e api.Exclusion) string {
	if e.Fleet != "" {
		return "fleet " + e.Fleet + ": " + e.Requirement
	}
	return e.Requirement
}

// without is what leaving out a requirement gives.
func without(e api.Exclusion) string {
	var parts []string
	if e.Alone > 0 {
		parts = append(parts, fmt.Sprintf("%d more", e.Alone)+from(e, " from "))
	}
	if e.Unavailable > 0 {
		parts = append(parts, fmt.Sprintf("%d not available now", e.Unavailable))
	}
	if parts == nil {
		return "-"
	}
	return strings.Join(parts, ", ")
}

// from is the lowest price after some words, "" for hosts that cost nothing.
func from(e api.Exclusion, words string) string {
	if e.From == nil || *e.From == 0 {
		return ""
	}
	return words + format.Price(*e.From)
}

// PrintPlanNotes says what the offers of a run's plan leave open, of one of its jobs: the first
// for which there is nothing, or little. It is true when it said anything.
func PrintPlanNotes(t *term.IO, plan api.RunPlan) bool {
	at := slices.IndexFunc(plan.JobPlans, func(jp api.JobPlan) bool { return jp.WhyNot != nil && jp.WhyNot.Fit == 0 })
	if at < 0 {
		at = slices.IndexFunc(plan.JobPlans, func(jp api.JobPlan) bool { return jp.WhyNot != nil })
	}
	if at < 0 {
		return printNotes(t, plan.PlanNotes, nil, option)
	}
	if at > 0 {
		t.Println(fmt.Sprintf("Job %s:", plan.JobPlans[at].JobSpec.JobName))
	}
	return printNotes(t, plan.PlanNotes, plan.JobPlans[at].WhyNot, option)
}

// PrintFleetNotes says the same of a fleet's plan, whose requirements have no options.
func PrintFleetNotes(t *term.IO, plan api.FleetPlan) bool {
	why := plan.WhyNot
	if why != nil {
		why = why.Worth(scheduler.Few)
	}
	return printNotes(t, plan.PlanNotes, why, func(api.Exclusion) string { return "." })
}

// printNotes says what offers leave open: backends that do not answer, and why few of the others
// fit. It is true when it said anything.
func printNotes(t *term.IO, notes api.PlanNotes, why *api.WhyNot, next func(api.Exclusion) string) bool {
	if why == nil && notes.BackendProblems == nil {
		return false
	}
	for _, p := range notes.BackendProblems {
		t.Println(t.Paint(term.Warning, fmt.Sprintf("Backend %s %s.", format.Backend(string(p.Backend), ""), p.Message)))
	}
	if why != nil {
		if why.Fit == 0 {
			t.Println(t.Paint(term.Warning, noneFit(*why)))
		}
		for _, r := range why.Reasons {
			t.Println(t.Paint(term.Warning, r+"."))
		}
		printWhyNot(t, why.Excluded, next)
	}
	t.Println()
	return true
}

// noneFit counts what there is and what of it is away.
func noneFit(why api.WhyNot) string {
	var away []string
	n := 0
	for _, u := range why.Unavailable {
		n += u.Count
		away = append(away, fmt.Sprintf("%d %s", u.Count, format.Availability(string(u.Availability))))
	}
	switch {
	case n > 0:
		return fmt.Sprintf("%d of %s would do, but not now: %s.", n, counted(why.Considered), strings.Join(away, ", "))
	case why.Considered == 0:
		return "There are no offers."
	case why.Considered == 1:
		return "The only offer there is does not fit."
	}
	return fmt.Sprintf("None of %s fits.", counted(why.Considered))
}

func counted(n int) string {
	if n == 1 {
		return "1 offer"
	}
	return fmt.Sprintf("%d offers", n)
}
