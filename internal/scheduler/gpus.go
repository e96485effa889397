package scheduler

import (
	"cmp"
	"maps"
	"slices"

	"dstack/internal/api"
	"dstack/internal/config"
)

// GPUGrouping says by what GPUs are told apart beyond their kind. Region needs Backend.
type GPUGrouping struct{ Backend, Region, Count bool }

// WithGPUs are resources that have a GPU at least, unless none are wanted: what can be in a group.
func WithGPUs(r config.Resources) config.Resources {
	g := config.GPU{Count: config.Between(0, -1)}
	if r.GPU != nil {
		g = *r.GPU
	}
	if none := g.Count.Max != nil && *g.Count.Max == 0; !none && (g.Count.Min == nil || *g.Count.Min == 0) {
		g.Count.Min = new(1)
	}
	r.GPU = &g
	return r
}

// GroupGPUs groups offers by kind of GPU (lifecycle 7.11): what can be had first, then what is
// cheap. It is never nil.
func GroupGPUs(by GPUGrouping, lists ...Found) []api.GpuGroup {
	groups := GPUGroups{By: by}
	for _, f := range lists {
		for _, at := range f.order {
			groups.Add(f.at(at))
		}
	}
	list := make([]api.GpuGroup, 0, len(groups.groups))
	for _, g := range groups.List() {
		list = append(list, *g)
	}
	return list
}

// GPUGroups puts offers into groups one by one.
type GPUGroups struct {
	By     GPUGrouping
	groups map[gpuKey]*api.GpuGroup
}

// List has the groups in the order of [GroupGPUs].
func (s *GPUGroups) List() []*api.GpuGroup {
	return slices.SortedFunc(maps.Values(s.groups), func(a, b *api.GpuGroup) int { return compareGPUs(*a, *b) })
}

type gpuKey struct {
	name, vendor    string
	memory          int
	backend, region string
	count           int
}

// Add puts an offer into its group, which it returns. Machines without GPUs belong to none: nil.
func (s *GPUGroups) Add(o *api.InstanceOffer) *api.GpuGroup {
	by, gpus := s.By, o.Instance.Resources.Gpus
	if len(gpus) == 0 {
		return nil
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
	group := s.groups[key]
	if group == nil {
		if s.groups == nil {
			s.groups = map[gpuKey]*api.GpuGroup{}
		}
		group = &api.GpuGroup{Name: g.Name, MemoryMiB: g.MemoryMiB, Vendor: g.Vendor, Count: api.CountRange{Min: n, Max: n},
			Price: api.PriceRange{Min: price, Max: price}, OfferPrice: &api.PriceRange{Min: o.Price, Max: o.Price}}
		s.groups[key] = group
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
	return group
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
