package run

import (
	"context"

	"dstack/internal/api"
	"dstack/internal/scheduler"
)

// offers lists where the jobs of a replica could run, for a plan. For offers only,
// backends count without a fleet.
func (s *Service) offers(ctx context.Context, r Run, specs []api.JobSpec, offersOnly bool) ([]api.InstanceOffer, error) {
	supply, err := s.supply(ctx, r.ProjectID)
	if err != nil {
		return nil, err
	}
	g := gang{run: &r}
	for _, spec := range specs {
		g.jobs = append(g.jobs, &Job{Data: JobData{Spec: spec}})
	}
	ask, err := s.ask(ctx, &g, supply.Fleets)
	if err != nil {
		return nil, err
	}
	choices := scheduler.Choices(ask, supply)
	switch {
	case !offersOnly && len(choices) == 0:
		return []api.InstanceOffer{}, nil
	case !offersOnly:
		return choices[0].Offers(), nil
	}
	out := []api.InstanceOffer{}
	for _, c := range choices {
		out = append(out, c.Existing()...)
		if ask.Fleets != nil {
			out = append(out, c.New...)
		}
	}
	if ask.Fleets == nil && !ask.Reuse && len(ask.Profile.Instances) == 0 {
		for _, o := range supply.Offers {
			if scheduler.Fits(specs[0].Requirements, ask.Profile, o) == "" {
				out = append(out, o)
			}
		}
	}
	scheduler.Sort(out)
	return out, nil
}
