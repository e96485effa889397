package run

import (
	"context"
	"fmt"

	"dstack/internal/api"
	"dstack/internal/scheduler"
)

// whyNot says why no more of the instances and offers that there are would do than those of a
// plan; nil where enough do, or nothing is the reason that could be otherwise.
func (v survey) whyNot(offers scheduler.Found) *api.WhyNot {
	if offers.Usable(scheduler.Few+1) > scheduler.Few && (v.offersOnly || len(v.ask.Jobs) == 1) {
		return nil
	}
	why := scheduler.WhyNot(v.ask, v.supply, v.offersOnly)
	return why.Worth(scheduler.Few)
}

// problems are those of the project's backends whose offers are missing or old, of those that are of use.
func (s *Service) problems(ctx context.Context, projectID string, of func(backend string) bool) ([]api.BackendProblem, error) {
	list, err := s.Catalog.Problems(ctx, projectID)
	if err != nil {
		return nil, err
	}
	var out []api.BackendProblem
	for _, p := range list {
		if !of(p.Backend) {
			continue
		}
		out = append(out, api.BackendProblem{Backend: api.BackendType(p.Backend), Message: p.Text, OffersAt: api.OptTime(p.At)})
	}
	return out, nil
}

// silent says which of the project's backends do not say what they offer, in sentences.
func (s *Service) silent(ctx context.Context, projectID string) ([]scheduler.Silence, error) {
	list, err := s.Catalog.Silent(ctx, projectID)
	if err != nil {
		return nil, err
	}
	var out []scheduler.Silence
	for _, p := range list {
		out = append(out, scheduler.Silence{Backend: p.Backend, Text: fmt.Sprintf("Backend '%s' %s", p.Backend, p.Text)})
	}
	return out, nil
}
