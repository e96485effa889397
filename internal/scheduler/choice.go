package scheduler

import (
	"cmp"
	"math"
	"slices"

	"dstack/internal/api"
)

// Choice is what one fleet could give to a gang's first job: shares of instances that
// exist, also busy ones, and offers for new ones.
type Choice struct {
	Fleet string // id
	// Pool says that enough of the existing ones are free for all jobs.
	Pool bool
	New  []api.InstanceOffer

	hosts  []choiceHost // that fit
	lowest float64      // price of those that are free, per hour; infinite without any
}

// choiceHost is a host with the blocks of it that serve the job.
type choiceHost struct {
	host   *Host
	blocks int
	free   bool
}

// Existing are the shares of instances, cheapest first.
func (c Choice) Existing() []api.InstanceOffer {
	hosts := slices.Clone(c.hosts)
	slices.SortStableFunc(hosts, func(a, b choiceHost) int { return cmp.Compare(a.host.Offer.Price, b.host.Offer.Price) })
	list := make([]api.InstanceOffer, len(hosts))
	for n, h := range hosts {
		availability := api.Busy
		if h.free {
			availability = api.Idle
		}
		list[n] = offerOf(h.host, h.blocks, availability)
	}
	return list
}

// Offers lists existing instances before new ones, and what can be used before what cannot.
func (c Choice) Offers() []api.InstanceOffer {
	existing := c.Existing()
	list := make([]api.InstanceOffer, 0, len(existing)+len(c.New))
	for want := range 2 {
		for _, part := range [][]api.InstanceOffer{existing, c.New} {
			for i := range part {
				if unusable(&part[i]) == want {
					list = append(list, part[i])
				}
			}
		}
	}
	return list
}

func unusable(o *api.InstanceOffer) int {
	if o.Availability.Usable() {
		return 0
	}
	return 1
}

// Choices lists what each fleet that may serve a gang could give, best fleet first
// (lifecycle 7.5): one with free instances for all jobs, then the cheapest free instance,
// then the cheapest offer.
func Choices(g Gang, s Supply) []Choice {
	p := newPlacer(s)
	fleets := p.fleetsOf(&g)
	shares := p.shares(&g)
	var list []Choice
	for _, f := range fleets {
		c := Choice{Fleet: p.Fleets[f].ID, lowest: math.Inf(1)}
		free := 0
		for _, i := range p.inFleet[f] {
			n := shares[0][i]
			if n == 0 {
				continue
			}
			h := choiceHost{p.Hosts[i], n, n <= p.free[i]}
			if h.free {
				free++
				c.lowest = min(c.lowest, h.host.Offer.Price)
			}
			c.hosts = append(c.hosts, h)
		}
		c.Pool = free >= len(g.Jobs)
		c.New = p.offers(&g, f)
		list = append(list, c)
	}
	slices.SortStableFunc(list, func(a, b Choice) int {
		return cmp.Or(cmp.Compare(flag(!a.Pool), flag(!b.Pool)), cmp.Compare(a.lowest, b.lowest), cmp.Compare(firstPrice(a.New), firstPrice(b.New)))
	})
	return list
}

// offers are those of which a fleet could make a new instance for a gang's first job.
func (p *placer) offers(g *Gang, f int) []api.InstanceOffer {
	if g.Reuse || len(g.Profile.Instances) > 0 || p.room[f] == 0 {
		return nil
	}
	ask, ok := Combine(p.Fleets[f].Ask, Ask{g.Profile, g.Jobs[0].Requirements})
	if !ok {
		return nil
	}
	sites := p.sites(g, f)
	anywhere := len(sites) == 1 && sites[0] == Site{}
	var fit []int // there may be tens of thousands, of which nothing is copied twice
	for i := range p.Offers {
		o := &p.Offers[i]
		here := anywhere || slices.Contains(sites, Site{p.Fleets[f].ID, string(o.Backend), o.Region})
		if here && Fits(ask.Requirements, ask.Profile, *o) == "" {
			fit = append(fit, i)
		}
	}
	if fit == nil {
		return nil
	}
	list := make([]api.InstanceOffer, len(fit))
	for n, i := range fit {
		list[n] = p.Offers[i]
		list[n].Blocks, list[n].TotalBlocks = 1, 1
	}
	return list
}

func firstPrice(offers []api.InstanceOffer) float64 {
	for _, o := range offers {
		if o.Availability.Usable() {
			return o.Price
		}
	}
	return math.Inf(1)
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}
