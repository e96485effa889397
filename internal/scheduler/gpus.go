package scheduler

import (
	"cmp"
	"slices"

	"dstack/internal/api"
)

// GPUGrouping says by what GPUs are told apart beyond their kind. Region needs Backend.
type GPUGrouping struct{ Backend, Region, Count bool }

// GroupGPUs groups offers by kind of GPU (lifecycle 7.11): what can be had first, then what is
// cheap. It is never nil.
func GroupGPUs(by GPUGrouping, lists ...Found) []api.GpuGroup {
	groups := map[gpuKey]*api.GpuGroup{}
	for _, f := range lists {
		for _, at := range f.order {
			by.add(groups, f.at(at))
		}
	}
	list := make([]api.GpuGroup, 0, len(groups))
	for _, g := range groups {
		list = append(list, *g)
	}
	slices.SortFunc(list, compareGPUs)
	return list
}

type gpuKey struct {
	name, vendor    string
	memory          int
	backend, region string
	count           int
}

// add puts an offer into its group. Machines without GPUs belong to none.
func (by GPUGrouping) add(groups map[gpuKey]*api.GpuGroup, o *api.InstanceOffer) {
	gpus := o.Instance.Resources.Gpus
	if len(gpus) == 0 {
		return
	}
	g, n := gpus[0], len(gpus)
	price := o.Price / float64(n)
	key := gpuKey{name: g.Name, vendor: string(g.Vendor), memory: g.MemoryMiB}
	if by.Backend {
		key.backend = string(o.Backend)
	}
	if by.Region {
		key.region = o.Region
	}
	if by.Count {
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
	case !by.Backend:
		group.Backends = once(group.Backends, o.Backend)
	case !by.Region:
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
