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
	a, conflicts := combine(fleet, run)
	if conflicts != 0 {
		return Ask{}, false
	}
	return a, true
}

// combine also says what excludes each other. The result is of use beside it.
func combine(fleet, run Ask) (both Ask, conflicts Misses) {
	var c combiner
	both = Ask{
		Profile:      c.profile(fleet.Profile, run.Profile),
		Requirements: c.requirements(fleet.Requirements, run.Requirements),
	}
	return both, c.conflicts
}

// combiner remembers which values excluded each other.
type combiner struct{ conflicts Misses }

func (c *combiner) profile(fleet, run config.ProfileParams) config.ProfileParams {
	return config.ProfileParams{
		Backends:          common(fleet.Backends, run.Backends),
		Regions:           common(fleet.Regions, run.Regions),
		AvailabilityZones: common(fleet.AvailabilityZones, run.AvailabilityZones),
		InstanceTypes:     common(fleet.InstanceTypes, run.InstanceTypes),
		Reservation:       same(c, needReservation, fleet.Reservation, run.Reservation),
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
		Spot:           same(c, needSpot, fleet.Spot, run.Spot),
		Reservation:    same(c, needReservation, fleet.Reservation, run.Reservation),
		Multinode:      either(fleet.Multinode, run.Multinode),
		BackendOptions: c.backendOptions(fleet.BackendOptions, run.BackendOptions),
	}
}

func (c *combiner) resources(fleet, run config.Resources) config.Resources {
	r := config.Resources{
		CPU:     config.CPU{Arch: same(c, needArch, fleet.CPU.Arch, run.CPU.Arch), Count: c.counts(needCPU, fleet.CPU.Count, run.CPU.Count)},
		Memory:  c.sizes(needMemory, fleet.Memory, run.Memory),
		ShmSize: smaller(fleet.ShmSize, run.ShmSize),
		GPU:     cmp.Or(run.GPU, fleet.GPU),
		Disk:    cmp.Or(run.Disk, fleet.Disk),
	}
	if fleet.GPU != nil && run.GPU != nil {
		r.GPU = c.gpu(fleet.GPU, run.GPU)
	}
	if fleet.Disk != nil && run.Disk != nil {
		r.Disk = &config.Disk{Size: c.sizes(needDisk, fleet.Disk.Size, run.Disk.Size)}
	}
	return r
}

func (c *combiner) gpu(fleet, run *config.GPU) *config.GPU {
	g := &config.GPU{
		Vendor:      same(c, needGPUVendor, fleet.Vendor, run.Vendor),
		Name:        common(fleet.Name, run.Name),
		Count:       c.counts(needGPUCount, fleet.Count, run.Count),
		Memory:      c.optionalSizes(needGPUMemory, fleet.Memory, run.Memory),
		TotalMemory: c.optionalSizes(needGPUTotalMemory, fleet.TotalMemory, run.TotalMemory),
		// The higher one, as recorded: lifecycle 7.9 has the lower, which a GPU could meet
		// without meeting the other side's.
		ComputeCapability: later(fleet.ComputeCapability, run.ComputeCapability),
	}
	if opens(fleet, g) || opens(run, g) {
		g.Count.Min = nil
	}
	return g
}

// opens says that beside one side's wish the lower end of another is open. One of 0 lets
// machines without GPUs pass whatever else is asked of GPUs, an open one does not (lifecycle
// 7.2 #6): where one side is open, both are.
func opens(side, other *config.GPU) bool {
	return side.Count.Min == nil && other.Count.Min != nil && *other.Count.Min == 0
}

// beside is an ask as it reads together with another: see [opens].
func (a Ask) beside(b Ask) (_ Ask, changed bool) {
	mine, other := a.Requirements.Resources.GPU, b.Requirements.Resources.GPU
	if mine == nil || other == nil || !opens(other, mine) {
		return a, false
	}
	g := *mine
	g.Count.Min = nil
	a.Requirements.Resources.GPU = &g
	return a, true
}

// counts are the numbers in both ranges.
func (c *combiner) counts(of requirement, a, b config.IntRange) config.IntRange {
	r := config.IntRange{Min: larger(a.Min, b.Min), Max: smaller(a.Max, b.Max)}
	if r.Min != nil && r.Max != nil && *r.Min > *r.Max {
		c.conflicts |= 1 << of
	}
	return r
}

// sizes are the sizes in both ranges.
func (c *combiner) sizes(of requirement, a, b config.MemoryRange) config.MemoryRange {
	r, ok := commonSizes(a, b)
	if !ok {
		c.conflicts |= 1 << of
	}
	return r
}

func (c *combiner) optionalSizes(of requirement, a, b *config.MemoryRange) *config.MemoryRange {
	if a == nil || b == nil {
		return cmp.Or(a, b)
	}
	r := c.sizes(of, *a, *b)
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
	return same(c, needSpot, a, b)
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
			OfferOrder:     same(c, backendOptions, list[i].OfferOrder, o.OfferOrder),
			MinReliability: larger(list[i].MinReliability, o.MinReliability),
			MinScore:       larger(list[i].MinScore, o.MinScore),
		}
	}
	return list
}

// same is the value of both sides, or of the one that has one.
func same[T comparable](c *combiner, of requirement, a, b *T) *T {
	if a != nil && b != nil && *a != *b {
		c.conflicts |= 1 << of
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
