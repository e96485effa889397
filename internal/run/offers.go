package run

import (
	"context"

	"dstack/internal/api"
	"dstack/internal/scheduler"
)

// survey is what there is for a replica of a run, and what its jobs ask of it.
type survey struct {
	supply  scheduler.Supply
	ask     scheduler.Gang
	choices []scheduler.Choice
	specs   []api.JobSpec
	// offersOnly has backends count without a fleet.
	offersOnly bool
}

func (s *Service) survey(ctx context.Context, r Run, specs []api.JobSpec, offersOnly bool) (survey, error) {
	market, err := s.Offers(ctx, r.ProjectID)
	if err != nil {
		return survey{}, err
	}
	supply, err := s.supply(ctx, r.ProjectID, market)
	if err != nil {
		return survey{}, err
	}
	g := gang{run: &r}
	for _, spec := range specs {
		g.jobs = append(g.jobs, &Job{Data: JobData{Spec: spec}})
	}
	ask := wish(&g)
	if err := s.relate(ctx, &ask, &g, supply.Fleets); err != nil {
		return survey{}, err
	}
	return survey{supply, ask, scheduler.Choices(ask, supply), specs, offersOnly}, nil
}

// offers lists where the jobs could run, for a plan.
func (v survey) offers() []api.InstanceOffer {
	switch {
	case !v.offersOnly && len(v.choices) == 0:
		return []api.InstanceOffer{}
	case !v.offersOnly:
		return v.choices[0].Offers()
	}
	out := []api.InstanceOffer{}
	for _, c := range v.choices {
		out = append(out, c.Existing()...)
		if v.ask.Fleets != nil {
			out = append(out, c.New...)
		}
	}
	if v.ask.Fleets == nil && !v.ask.Reuse && len(v.ask.Profile.Instances) == 0 {
		for _, o := range v.supply.Offers {
			if scheduler.Fits(v.specs[0].Requirements, v.ask.Profile, o) == "" {
				out = append(out, o)
			}
		}
	}
	scheduler.Sort(out)
	return out
}
