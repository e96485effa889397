package scheduler

import (
	"math/rand/v2"
	"slices"

	"dstack/internal/api"
	"dstack/internal/config"
)

// Random asks and offers over a world so small that they meet often.

func pick[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

// maybe is one of the values, or nil.
func maybe[T any](r *rand.Rand, list ...T) *T {
	if r.IntN(2) == 0 {
		return nil
	}
	return new(pick(r, list...))
}

// some is a part of the words, possibly none, or nil.
func some(r *rand.Rand, words ...string) []string {
	if r.IntN(2) == 0 {
		return nil
	}
	list := []string{}
	for _, w := range words {
		if r.IntN(4) > 0 {
			list = append(list, w)
		}
	}
	return list
}

func randomOffer(r *rand.Rand) api.InstanceOffer {
	o := api.InstanceOffer{
		Backend: pick[api.BackendType](r, "aws", "gcp", "lambda"), Region: pick(r, "eu", "us"), Price: float64(r.IntN(4)), Reserves: r.IntN(3) > 0, Multinode: r.IntN(3) > 0,
		Availability: pick(r, api.Available, api.Unknown, api.NoQuota, api.Idle, api.Busy), AvailabilityZones: some(r, "a", "b"),
		Rooms: pick(r, nil, nil, []api.Room{{Reservation: "r1", Zone: pick(r, "", "a"), Left: r.IntN(2)}}),
		Instance: api.InstanceType{Name: pick(r, "small", "big"), Resources: api.Resources{
			CPUs: r.IntN(9), MemoryMiB: r.IntN(9) * 4 << 10, Spot: r.IntN(2) == 0, Disk: api.Disk{SizeMiB: r.IntN(3) * 100 << 10},
			CPUArch: maybe[api.CPUArchitecture](r, "x86", "arm"),
		}},
	}
	gpu := pick(r, api.Gpu{Name: "A100", MemoryMiB: 40 << 10, Vendor: "nvidia"}, api.Gpu{Name: "H100", MemoryMiB: 80 << 10, Vendor: "nvidia"}, api.Gpu{Name: "MI300X", MemoryMiB: 192 << 10, Vendor: "amd"})
	for range r.IntN(4) {
		o.Instance.Resources.Gpus = append(o.Instance.Resources.Gpus, gpu)
	}
	return o
}

func randomAsk(r *rand.Rand) Ask {
	return Ask{
		Profile: config.ProfileParams{
			Backends: some(r, "AWS", "gcp", "lambda"), Regions: some(r, "EU", "us"), InstanceTypes: some(r, "small", "Big"), AvailabilityZones: some(r, "a", "B"),
			Reservation: maybe(r, "r1"), SpotPolicy: maybe(r, "spot", "on-demand", "auto"), MaxPrice: maybe(r, 1.0, 2, 3),
			IdleDuration: maybe[config.IdleDuration](r, -1, 0, 300), Tags: pick(r, nil, config.Tags{"a": "1"}, config.Tags{"a": "2", "b": "1"}),
			BackendOptions: pick(r, nil, []config.BackendOptions{{Type: "vastai", MinScore: new(r.IntN(9)), OfferOrder: maybe(r, "score", "price")}}),
		},
		Requirements: api.Requirements{
			MaxPrice: maybe(r, 1.0, 2, 3), Spot: maybe(r, true, false), Reservation: maybe(r, "r1"), Multinode: maybe(r, true, false),
			Resources: config.Resources{
				CPU: config.CPU{Arch: maybe(r, "x86", "arm"), Count: randomCounts(r, 8)}, Memory: randomSizes(r, 32),
				ShmSize: maybe[config.Memory](r, 1, 2), GPU: randomGPU(r), Disk: maybe(r, config.Disk{Size: randomSizes(r, 200)}),
			},
		},
	}
}

func randomGPU(r *rand.Rand) *config.GPU {
	return maybe(r, config.GPU{
		Vendor: maybe(r, "nvidia", "amd"), Name: some(r, "a100", "H100", "mi300x"), Count: randomCounts(r, 3),
		Memory: maybe(r, randomSizes(r, 192)), TotalMemory: maybe(r, randomSizes(r, 400)), ComputeCapability: pick(r, nil, []int{8, 0}, []int{9, 0}),
	})
}

func randomCounts(r *rand.Rand, most int) config.IntRange {
	lo := r.IntN(most/2 + 1)
	return config.IntRange{Min: maybe(r, lo), Max: maybe(r, lo+r.IntN(most-lo+1))}
}

func randomSizes(r *rand.Rand, most int) config.MemoryRange {
	lo := r.Float64() * float64(most) / 2
	return config.MemoryRange{Min: maybe(r, config.Memory(lo)), Max: maybe(r, config.Memory(lo+r.Float64()*float64(most)))}
}

// tightened asks for more than a in one respect.
func tightened(r *rand.Rand, a Ask) Ask {
	shorten := func(list *[]string) {
		if len(*list) > 0 {
			i := r.IntN(len(*list))
			*list = slices.Delete(slices.Clone(*list), i, i+1)
		}
	}
	cpu, memory := &a.Requirements.Resources.CPU, &a.Requirements.Resources.Memory
	changes := []func(){
		func() { shorten(&a.Profile.Backends) },
		func() { shorten(&a.Profile.Regions) },
		func() { shorten(&a.Profile.InstanceTypes) },
		func() { shorten(&a.Profile.AvailabilityZones) },
		func() { a.Requirements.MaxPrice = smaller(a.Requirements.MaxPrice, new(float64(r.IntN(4)))) },
		func() { cpu.Count.Min = larger(cpu.Count.Min, new(r.IntN(8))) },
		func() { cpu.Count.Max = smaller(cpu.Count.Max, new(r.IntN(8))) },
		func() { memory.Min = larger(memory.Min, new(config.Memory(r.IntN(32)))) },
		func() { memory.Max = smaller(memory.Max, new(config.Memory(r.IntN(32)))) },
	}
	if a.Requirements.Spot == nil {
		changes = append(changes, func() { a.Requirements.Spot = new(true) })
	}
	if a.Requirements.Reservation == nil {
		changes = append(changes, func() { a.Requirements.Reservation = new("r1") })
	}
	if cpu.Arch == nil {
		changes = append(changes, func() { cpu.Arch = new("arm") })
	}
	if a.Requirements.Resources.Disk == nil {
		changes = append(changes, func() { a.Requirements.Resources.Disk = &config.Disk{Size: randomSizes(r, 200)} })
	}
	if g := a.Requirements.Resources.GPU; g == nil {
		changes = append(changes, func() { a.Requirements.Resources.GPU = randomGPU(r) })
	} else {
		tighter := *g
		a.Requirements.Resources.GPU = &tighter
		changes = append(changes,
			func() { shorten(&tighter.Name) },
			func() { tighter.Count.Min = larger(tighter.Count.Min, new(1+r.IntN(3))) },
			func() { tighter.Count.Max = smaller(tighter.Count.Max, new(r.IntN(4))) },
			func() {
				if len(tighter.ComputeCapability) > 0 || r.IntN(2) == 0 {
					tighter.ComputeCapability = []int{9, 0}
				}
			},
		)
	}
	pick(r, changes...)()
	return a
}

// relaxed is an ask without one requirement, and all the others.
func relaxed(a Ask, word string) Ask {
	p, req := &a.Profile, &a.Requirements
	var g config.GPU
	if old := req.Resources.GPU; old != nil {
		g = *old
		req.Resources.GPU = &g
	}
	switch word {
	case "backends":
		p.Backends = nil
	case "regions":
		p.Regions = nil
	case "instance_types":
		p.InstanceTypes = nil
	case "availability_zones":
		p.AvailabilityZones = nil
	case "max_price":
		req.MaxPrice, p.MaxPrice = nil, nil
	case "spot_policy":
		req.Spot, p.SpotPolicy = nil, nil
	case "reservation":
		req.Reservation, p.Reservation = nil, nil
	case "backend_options":
		req.BackendOptions, p.BackendOptions = nil, nil
	case "nodes", "placement":
		req.Multinode = nil
	case "cpu":
		req.Resources.CPU.Count = config.IntRange{}
	case "cpu.arch":
		req.Resources.CPU.Arch = nil
	case "memory":
		req.Resources.Memory = config.MemoryRange{}
	case "disk":
		req.Resources.Disk = nil
	case "gpu.count": // any number, but GPUs where there have to be some
		least := g.Count.Min
		if least != nil {
			least = new(min(*least, 1))
		}
		g.Count = config.IntRange{Min: least}
	case "gpu.vendor":
		g.Vendor = nil
	case "gpu.name":
		g.Name = nil
	case "gpu.memory":
		g.Memory = nil
	case "gpu.total_memory":
		g.TotalMemory = nil
	case "gpu.compute_capability":
		g.ComputeCapability = nil
	}
	return a
}
