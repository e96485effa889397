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

func (s *Service) survey(ctx context.Context, supply scheduler.Supply, r Run, specs []api.JobSpec, offersOnly bool) (survey, error) {
	g := gang{run: &r}
	for _, spec := range specs {
		g.jobs = append(g.jobs, &Job{Data: JobData{Spec: spec}})
	}
	ask := wish(&g)
	if err := s.relate(ctx, &ask, &g, supply.Fleets); err != nil {
		return survey{}, err
	}
	v := survey{supply: supply, ask: ask, specs: specs, offersOnly: offersOnly}
	market, err := s.market(ctx, r.ProjectID, v.concerns, reservations([]scheduler.Gang{ask}, supply.Fleets))
	if err != nil {
		return survey{}, err
	}
	v.supply.Offers, v.supply.Index = market.list, market.index
	v.choices = scheduler.Choices(ask, v.supply)
	return v, nil
}

// concerns says that the plan is to tell of a backend.
func (v survey) concerns(backend string) bool {
	if v.offersOnly && v.ask.Fleets == nil {
		return scheduler.Ask{Profile: v.ask.Profile}.MayBuy(backend)
	}
	return v.supply.Concerns(&v.ask, backend)
}

// offers lists where the jobs could run, for a plan.
func (v survey) offers() scheduler.Found {
	switch {
	case v.offersOnly:
		return scheduler.Everywhere(v.ask, v.supply, v.choices)
	case len(v.choices) == 0:
		return scheduler.Found{}
	}
	return v.choices[0].Offers()
}
