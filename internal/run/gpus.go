package run

import (
	"cmp"
	"context"
	"slices"

	"dstack/internal/api"
	"dstack/internal/project"
)

// GPUs groups the offers that fit a run by kind of GPU (http-api 10.7).
func (s *Service) GPUs(ctx context.Context, sc project.Scope, r api.ListGpusRequest) (api.ListGpusResponse, error) {
	by := grouping{slices.Contains(r.GroupBy, "backend"), slices.Contains(r.GroupBy, "region"), slices.Contains(r.GroupBy, "count")}
	if by.region && !by.backend {
		return api.ListGpusResponse{}, api.Invalid("Cannot group by 'region' without also grouping by 'backend'")
	}
	all := 10000
	plan, err := s.Plan(ctx, sc, api.GetRunPlanRequest{RunSpec: r.RunSpec, MaxOffers: &all, ForOffersOnly: true, FullOffers: r.FullOffers, UnallocatedResources: r.UnallocatedResources})
	if err != nil {
		return api.ListGpusResponse{}, err
	}
	groups := map[gpuKey]*api.GpuGroup{}
	for _, jp := range plan.JobPlans {
		for _, o := range jp.Offers {
			by.add(groups, o)
		}
	}
	out := api.ListGpusResponse{Gpus: make([]api.GpuGroup, 0, len(groups))}
	for _, g := range groups {
		out.Gpus = append(out.Gpus, *g)
	}
	slices.SortFunc(out.Gpus, compareGPUs)
	if r.Reverse {
		slices.Reverse(out.Gpus)
	}
	return out, nil
}

// grouping says by what GPUs are told apart beyond their kind.
type grouping struct{ backend, region, count bool }

type gpuKey struct {
	name, vendor    string
	memory          int
	backend, region string
	count           int
}

// add puts an offer into its group. Machines without GPUs belong to none.
func (by grouping) add(groups map[gpuKey]*api.GpuGroup, o api.InstanceOffer) {
	gpus := o.Instance.Resources.Gpus
	if len(gpus) == 0 {
		return
	}
	g, n := gpus[0], len(gpus)
	price := o.Price / float64(n)
	key := gpuKey{name: g.Name, vendor: string(g.Vendor), memory: g.MemoryMiB}
	if by.backend {
		key.backend = string(o.Backend)
	}
	if by.region {
		key.region = o.Region
	}
	if by.count {
		key.count = n
	}
	group := groups[key]
	if group == nil {
		group = &api.GpuGroup{Name: g.Name, MemoryMiB: g.MemoryMiB, Vendor: g.Vendor, Count: api.CountRange{Min: n, Max: n},
			Price: api.PriceRange{Min: price, Max: price}, OfferPrice: &api.PriceRange{Min: o.Price, Max: o.Price}}
		groups[key] = group
	}
	group.Count.Min, group.Count.Max = min(group.Count.Min, n), max(group.Count.Max, n)
	group.Price.Min, group.Price.Max = min(group.Price.Min, price), max(group.Price.Max, price)
	group.OfferPrice.Min, group.OfferPrice.Max = min(group.OfferPrice.Min, o.Price), max(group.OfferPrice.Max, o.Price)
	group.Availability = once(group.Availability, o.Availability)
	group.Spot = once(group.Spot, spotWord(o.Instance.Resources.Spot))
	switch {
	case !by.backend:
		group.Backends = once(group.Backends, o.Backend)
	case !by.region:
		backend := o.Backend
		group.Backend, group.Regions = &backend, once(group.Regions, o.Region)
	default:
		backend, region := o.Backend, o.Region
		group.Backend, group.Region = &backend, &region
	}
}

func spotWord(spot bool) string {
	if spot {
		return "spot"
	}
	return "on-demand"
}

func once[T comparable](list []T, v T) []T {
	if slices.Contains(list, v) {
		return list
	}
	return append(list, v)
}

// compareGPUs puts what can be had first, then what is cheap.
func compareGPUs(a, b api.GpuGroup) int {
	missing := func(g api.GpuGroup) int {
		if slices.ContainsFunc(g.Availability, api.InstanceAvailability.Usable) {
			return 0
		}
		return 1
	}
	text := func(g api.GpuGroup) string {
		s := ""
		if g.Backend != nil {
			s += string(*g.Backend)
		}
		if g.Region != nil {
			s += "/" + *g.Region
		}
		return s
	}
	return cmp.Or(cmp.Compare(missing(a), missing(b)), cmp.Compare(a.Price.Min, b.Price.Min), cmp.Compare(a.Price.Max, b.Price.Max),
		cmp.Compare(text(a), text(b)), cmp.Compare(a.Count.Min, b.Count.Min), cmp.Compare(a.Name, b.Name), cmp.Compare(a.MemoryMiB, b.MemoryMiB))
}
