package run

import (
	"context"
	"slices"

	"dstack/internal/api"
	"dstack/internal/jobspec"
	"dstack/internal/project"
	"dstack/internal/scheduler"
)

// GPUs groups the offers that fit a run by kind of GPU (http-api 10.7).
func (s *Service) GPUs(ctx context.Context, sc project.Scope, r api.ListGpusRequest) (api.ListGpusResponse, error) {
	by := scheduler.GPUGrouping{Backend: slices.Contains(r.GroupBy, "backend"), Region: slices.Contains(r.GroupBy, "region"), Count: slices.Contains(r.GroupBy, "count")}
	if by.Region && !by.Backend {
		return api.ListGpusResponse{}, api.Invalid("Cannot group by 'region' without also grouping by 'backend'")
	}
	for _, needs := range jobspec.Resources(r.RunSpec.Configuration) { // so that machines without GPUs, which are in no group, do not count as fitting
		*needs = scheduler.WithGPUs(*needs)
	}
	plan, offers, err := s.plan(ctx, sc, api.GetRunPlanRequest{RunSpec: r.RunSpec, MaxOffers: new(0), ForOffersOnly: true, FullOffers: r.FullOffers, UnallocatedResources: r.UnallocatedResources})
	if err != nil {
		return api.ListGpusResponse{}, err
	}
	out := api.ListGpusResponse{PlanNotes: api.PlanNotes{BackendProblems: plan.BackendProblems}}
	for _, jp := range plan.JobPlans {
		if out.WhyNot == nil {
			out.WhyNot = jp.WhyNot
		}
	}
	out.Gpus = scheduler.GroupGPUs(by, offers...)
	if r.Reverse {
		slices.Reverse(out.Gpus)
	}
	return out, nil
}
