package pricelist

import (
	"sort"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/scheduler"
)

// Search returns the offers that fit, cheapest first, at most limit of them (below 0: all), and
// how many fit. It follows the rules of [scheduler.Fits]. The zones of what it returns are
// shared with the list and must not be changed.
func (l *List) Search(req api.Requirements, p config.ProfileParams, limit int) (found []Offer, total int) {
	m := l.misses(&req, &p)
	c := &l.columns
	shapes, places := m.shape, m.place
	for i, s := range c.shape[:m.affordable] {
		if shapes[s]|places[c.place[i]]|m.spot[index(c.spot[i])] != 0 {
			continue
		}
		if limit < 0 || total < limit {
			found = append(found, l.offer(i))
		}
		total++
	}
	return found, total
}

// WhyNot counts what the requirements exclude.
func (l *List) WhyNot(req api.Requirements, p config.ProfileParams) *scheduler.Tally {
	m := l.misses(&req, &p)
	c := &l.columns
	var t scheduler.Tally
	for i, s := range c.shape {
		missed := m.shape[s] | m.place[c.place[i]] | m.spot[index(c.spot[i])]
		if i >= m.affordable {
			missed |= m.dear
		}
		t.Add(missed, c.price[i])
	}
	return &t
}

// misses has what each part of a row misses; a row misses what any of its parts does.
type misses struct {
	shape      []scheduler.Misses
	place      []scheduler.Misses
	spot       [2]scheduler.Misses
	affordable int              // rows before this one are not too dear
	dear       scheduler.Misses // what the others miss
}

// misses asks the rules about each distinct value alone, with a request that has only the
// requirements that concern it. That gives what whole rows would miss, since every rule looks
// at one of these parts; a test compares it with asking about whole rows.
func (l *List) misses(req *api.Requirements, p *config.ProfileParams) misses {
	m := misses{shape: l.shapeMisses(req, p), place: make([]scheduler.Misses, len(l.places))}
	here := config.ProfileParams{Regions: p.Regions, AvailabilityZones: p.AvailabilityZones}
	for i, pl := range l.places {
		m.place[i] = missed(api.Requirements{}, here, api.InstanceOffer{Region: pl.region, AvailabilityZones: pl.zones})
	}
	for _, spot := range []bool{false, true} {
		o := api.InstanceOffer{}
		o.Instance.Resources.Spot = spot
		m.spot[index(spot)] = missed(api.Requirements{Spot: req.Spot}, config.ProfileParams{}, o)
	}
	price := func(i int) scheduler.Misses {
		return missed(api.Requirements{MaxPrice: req.MaxPrice}, config.ProfileParams{}, api.InstanceOffer{Price: l.columns.price[i]})
	}
	m.affordable = sort.Search(l.Len(), func(i int) bool { return price(i) != 0 })
	if m.affordable < l.Len() {
		m.dear = price(m.affordable)
	}
	return m
}

func (l *List) shapeMisses(req *api.Requirements, p *config.ProfileParams) []scheduler.Misses {
	want := req.Resources
	backends := ask(l.parts.backends.values, api.Requirements{Reservation: req.Reservation}, config.ProfileParams{Backends: p.Backends},
		func(o *api.InstanceOffer, v string) { o.Backend, o.Reserves = api.BackendType(v), reserves(v) })
	archs := ask(l.parts.archs.values, api.Requirements{Resources: config.Resources{CPU: config.CPU{Arch: want.CPU.Arch}}}, config.ProfileParams{},
		func(o *api.InstanceOffer, v string) {
			arch := api.CPUArchitecture(v)
			o.Instance.Resources.CPUArch = &arch
		})
	cpus := ask(l.parts.cpus.values, api.Requirements{Resources: config.Resources{CPU: config.CPU{Count: want.CPU.Count}}}, config.ProfileParams{},
		func(o *api.InstanceOffer, v int) { o.Instance.Resources.CPUs = v })
	memories := ask(l.parts.memories.values, api.Requirements{Resources: config.Resources{Memory: want.Memory}}, config.ProfileParams{},
		func(o *api.InstanceOffer, v int) { o.Instance.Resources.MemoryMiB = v })
	disks := ask(l.parts.disks.values, api.Requirements{Resources: config.Resources{Disk: want.Disk}}, config.ProfileParams{},
		func(o *api.InstanceOffer, v int) { o.Instance.Resources.Disk.SizeMiB = v })
	gpus := ask(l.parts.gpus.values, api.Requirements{Resources: config.Resources{GPU: want.GPU}}, config.ProfileParams{},
		func(o *api.InstanceOffer, v gpuSet) { o.Instance.Resources.Gpus = v.list() })
	all := make([]scheduler.Misses, len(l.shapes))
	for i, of := range l.parts.of {
		all[i] = backends[of.backend] | archs[of.arch] | cpus[of.cpus] | memories[of.memory] | disks[of.disk] | gpus[of.gpus]
	}
	if p.InstanceTypes != nil {
		named := config.ProfileParams{InstanceTypes: p.InstanceTypes}
		for i := range all {
			all[i] |= missed(api.Requirements{}, named, api.InstanceOffer{Instance: api.InstanceType{Name: l.shapes[i].instance}})
		}
	}
	return all
}

// ask is what each value misses; set puts it into an offer.
func ask[T any](values []T, req api.Requirements, p config.ProfileParams, set func(*api.InstanceOffer, T)) []scheduler.Misses {
	list := make([]scheduler.Misses, len(values))
	for i, v := range values {
		var o api.InstanceOffer
		set(&o, v)
		list[i] = missed(req, p, o)
	}
	return list
}

// missed is [scheduler.Missed] of an offer that does not exist yet.
func missed(req api.Requirements, p config.ProfileParams, o api.InstanceOffer) scheduler.Misses {
	o.Availability = api.Unknown
	return scheduler.Missed(&req, &p, &o)
}

func index(spot bool) int {
	if spot {
		return 1
	}
	return 0
}
