package scheduler

import (
	"cmp"
	"maps"
	"slices"

	"dstack/internal/api"
	"dstack/internal/config"
)

// An Ask is everything that is wanted of an instance.
type Ask struct {
	Profile      config.ProfileParams
	Requirements api.Requirements
}

// Combine is what a new instance of a fleet must have to serve a run: what both ask for, in
// all but tags at least as tight as each. It is false when they exclude each other; lists
// without a common word are not that, but leave no offers (lifecycle 7.9). Of the profiles it
// keeps what concerns offers and the instance; the rest is the run's or the fleet's alone.
// The result may share memory with the arguments.
func Combine(fleet, run Ask) (Ask, bool) {
	var c combiner
	a := Ask{
		Profile:      c.profile(fleet.Profile, run.Profile),
		Requirements: c.requirements(fleet.Requirements, run.Requirements),
	}
	if c.conflict {
		return Ask{}, false
	}
	return a, true
}

// combiner remembers whether any two values excluded each other.
type combiner struct{ conflict bool }

func (c *combiner) profile(fleet, run config.ProfileParams) config.ProfileParams {
	return config.ProfileParams{
		Backends:          common(fleet.Backends, run.Backends),
		Regions:           common(fleet.Regions, run.Regions),
		AvailabilityZones: common(fleet.AvailabilityZones, run.AvailabilityZones),
		InstanceTypes:     common(fleet.InstanceTypes, run.InstanceTypes),
		Reservation:       same(c, fleet.Reservation, run.Reservation),
		SpotPolicy:        c.spotPolicy(fleet.SpotPolicy, run.SpotPolicy),
		MaxPrice:          smaller(fleet.MaxPrice, run.MaxPrice),
		IdleDuration:      shorter(fleet.IdleDuration, run.IdleDuration),
		Tags:              union(fleet.Tags, run.Tags),
		BackendOptions:    c.backendOptions(fleet.BackendOptions, run.BackendOptions),
	}
}

func (c *combiner) requirements(fleet, run api.Requirements) api.Requirements {
	return api.Requirements{
		Resources:      c.resources(fleet.Resources, run.Resources),
		MaxPrice:       smaller(fleet.MaxPrice, run.MaxPrice),
		Spot:           same(c, fleet.Spot, run.Spot),
		Reservation:    same(c, fleet.Reservation, run.Reservation),
		Multinode:      either(fleet.Multinode, run.Multinode),
		BackendOptions: c.backendOptions(fleet.BackendOptions, run.BackendOptions),
	}
}

func (c *combiner) resources(fleet, run config.Resources) config.Resources {
	r := config.Resources{
		CPU:     config.CPU{Arch: same(c, fleet.CPU.Arch, run.CPU.Arch), Count: c.counts(fleet.CPU.Count, run.CPU.Count)},
		Memory:  c.sizes(fleet.Memory, run.Memory),
		ShmSize: smaller(fleet.ShmSize, run.ShmSize),
		GPU:     cmp.Or(run.GPU, fleet.GPU),
		Disk:    cmp.Or(run.Disk, fleet.Disk),
	}
	if fleet.GPU != nil && run.GPU != nil {
		r.GPU = c.gpu(fleet.GPU, run.GPU)
	}
	if fleet.Disk != nil && run.Disk != nil {
		r.Disk = &config.Disk{Size: c.sizes(fleet.Disk.Size, run.Disk.Size)}
	}
	return r
}

func (c *combiner) gpu(fleet, run *config.GPU) *config.GPU {
	g := &config.GPU{
		Vendor:      same(c, fleet.Vendor, run.Vendor),
		Name:        common(fleet.Name, run.Name),
		Count:       c.counts(fleet.Count, run.Count),
		Memory:      c.optionalSizes(fleet.Memory, run.Memory),
		TotalMemory: c.optionalSizes(fleet.TotalMemory, run.TotalMemory),
		// The higher one, as recorded: lifecycle 7.9 has the lower, which a GPU could meet
		// without meeting the other side's.
		ComputeCapability: later(fleet.ComputeCapability, run.ComputeCapability),
	}
	// A lower end of 0 lets machines without GPUs pass whatever else is asked of GPUs, an
	// open one does not (lifecycle 7.2 #6): where one side is open, the result must be too.
	if (fleet.Count.Min == nil || run.Count.Min == nil) && g.Count.Min != nil && *g.Count.Min == 0 {
		g.Count.Min = nil
	}
	return g
}

// counts are the numbers in both ranges.
func (c *combiner) counts(a, b config.IntRange) config.IntRange {
	r := config.IntRange{Min: larger(a.Min, b.Min), Max: smaller(a.Max, b.Max)}
	if r.Min != nil && r.Max != nil && *r.Min > *r.Max {
		c.conflict = true
	}
	return r
}

// sizes are the sizes in both ranges.
func (c *combiner) sizes(a, b config.MemoryRange) config.MemoryRange {
	r, ok := commonSizes(a, b)
	c.conflict = c.conflict || !ok
	return r
}

func (c *combiner) optionalSizes(a, b *config.MemoryRange) *config.MemoryRange {
	if a == nil || b == nil {
		return cmp.Or(a, b)
	}
	r := c.sizes(*a, *b)
	return &r
}

func commonSizes(a, b config.MemoryRange) (r config.MemoryRange, ok bool) {
	r = config.MemoryRange{Min: larger(a.Min, b.Min), Max: smaller(a.Max, b.Max)}
	return r, r.Min == nil || r.Max == nil || *r.Min <= *r.Max
}

// spotPolicy lets "auto" yield to the other side.
func (c *combiner) spotPolicy(a, b *string) *string {
	switch {
	case a != nil && *a == "auto" && b != nil:
		return b
	case b != nil && *b == "auto" && a != nil:
		return a
	}
	return same(c, a, b)
}

// backendOptions merges the options of each backend.
func (c *combiner) backendOptions(fleet, run []config.BackendOptions) []config.BackendOptions {
	switch {
	case fleet == nil:
		return run
	case run == nil:
		return fleet
	}
	list := slices.Clone(fleet)
	for _, o := range run {
		i := slices.IndexFunc(list, func(f config.BackendOptions) bool { return f.Type == o.Type })
		if i < 0 {
			list = append(list, o)
			continue
		}
		list[i] = config.BackendOptions{
			Type:           o.Type,
			OfferOrder:     same(c, list[i].OfferOrder, o.OfferOrder),
			MinReliability: larger(list[i].MinReliability, o.MinReliability),
			MinScore:       larger(list[i].MinScore, o.MinScore),
		}
	}
	return list
}

// same is the value of both sides, or of the one that has one.
func same[T comparable](c *combiner, a, b *T) *T {
	if a != nil && b != nil && *a != *b {
		c.conflict = true
	}
	return cmp.Or(a, b)
}

// common are the words of both lists, in the fleet's order and spelling; nil allows all.
func common(fleet, run []string) []string {
	switch {
	case fleet == nil:
		return run
	case run == nil:
		return fleet
	}
	list := []string{}
	for _, s := range fleet {
		if contains(run, s) {
			list = append(list, s)
		}
	}
	return list
}

// union has the tags of both; the run's win.
func union(fleet, run config.Tags) config.Tags {
	if fleet == nil {
		return run
	}
	t := maps.Clone(fleet)
	maps.Copy(t, run)
	return t
}

// shorter is the shorter idle duration; a negative one, "never", yields to one that ends.
func shorter(a, b *config.IdleDuration) *config.IdleDuration {
	if a != nil && b != nil && (*a < 0) != (*b < 0) {
		return larger(a, b)
	}
	return smaller(a, b)
}

// either is whether one of them is true, nil when neither is said.
func either(a, b *bool) *bool {
	if a != nil && *a {
		return a
	}
	return cmp.Or(b, a)
}

func later(a, b []int) []int {
	if slices.Compare(a, b) >= 0 {
		return a
	}
	return b
}

func smaller[T cmp.Ordered](a, b *T) *T {
	if a == nil || b != nil && *b < *a {
		return b
	}
	return a
}

func larger[T cmp.Ordered](a, b *T) *T {
	if a == nil || b != nil && *b > *a {
		return b
	}
	return a
}
