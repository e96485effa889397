package run

import (
	"context"
	"slices"

	"dstack/internal/api"
	"dstack/internal/scheduler"
)

// few is the number of offers up to which a plan says why there are no more.
const few = 2

// whyNot counts what excludes the others of the instances and offers that jobs could have: by
// the wishes of the run and, with fleets, of the one that would be chosen. It is nil where
// requirements are not the reason: nothing is excluded, or enough fits that is busy, say.
func (v survey) whyNot() *api.WhyNot {
	want := scheduler.Ask{Profile: v.ask.Profile, Requirements: v.specs[0].Requirements}
	all := want // what new instances are asked for
	if len(v.choices) > 0 && (!v.offersOnly || v.ask.Fleets != nil) {
		i := slices.IndexFunc(v.supply.Fleets, func(f scheduler.Fleet) bool { return f.ID == v.choices[0].Fleet })
		if both, ok := scheduler.Combine(v.supply.Fleets[i].Ask, want); ok {
			all = both
		}
	}
	return whyNot(v.supply, want, all)
}

// whyNot asks want of the instances that exist and all of offers.
func whyNot(supply scheduler.Supply, want, all scheduler.Ask) *api.WhyNot {
	var t scheduler.Tally
	for _, h := range supply.Hosts {
		t.Add(scheduler.Missed(&want.Requirements, &want.Profile, &h.Offer), h.Offer.Price)
	}
	for i := range supply.Offers {
		o := &supply.Offers[i]
		t.Add(scheduler.Missed(&all.Requirements, &all.Profile, o), o.Price)
	}
	considered, fit := t.Offers()
	excluded := t.Exclusions()
	if len(excluded) == 0 || fit > few {
		return nil
	}
	return &api.WhyNot{Considered: considered, Fit: fit, Excluded: excluded}
}

// problems are the project's backends whose offers are missing or old.
func (s *Service) problems(ctx context.Context, projectID string) ([]api.BackendProblem, error) {
	list, err := s.Catalog.Problems(ctx, projectID)
	if err != nil {
		return nil, err
	}
	var out []api.BackendProblem
	for _, p := range list {
		out = append(out, api.BackendProblem{Backend: api.BackendType(p.Backend), Message: p.Text, OffersAt: api.OptTime(p.At)})
	}
	return out, nil
}
