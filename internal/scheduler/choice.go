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
	Fleet    string // id
	Existing []api.InstanceOffer
	New      []api.InstanceOffer
	// Pool says that enough of the existing ones are free for all jobs.
	Pool bool
}

// Offers lists existing instances before new ones, and what can be used before what cannot.
func (c Choice) Offers() []api.InstanceOffer {
	all := append(slices.Clone(c.Existing), c.New...)
	slices.SortStableFunc(all, func(a, b api.InstanceOffer) int {
		return cmp.Compare(unusable(a), unusable(b))
	})
	return all
}

func unusable(o api.InstanceOffer) int {
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
	fleets, _ := p.fleetsOf(&g)
	shares := p.shares(&g)
	var list []Choice
	for _, f := range fleets {
		c := Choice{Fleet: p.Fleets[f].ID}
		free := 0
		for _, i := range p.inFleet[f] {
			n := shares[0][i]
			if n == 0 {
				continue
			}
			availability := api.Busy
			if n <= p.free[i] {
				availability = api.Idle
				free++
			}
			c.Existing = append(c.Existing, offerOf(&p.Hosts[i], n, availability))
		}
		slices.SortStableFunc(c.Existing, func(a, b api.InstanceOffer) int { return cmp.Compare(a.Price, b.Price) })
		c.Pool = free >= len(g.Jobs)
		c.New = p.offers(&g, f)
		list = append(list, c)
	}
	slices.SortStableFunc(list, func(a, b Choice) int {
		return cmp.Or(cmp.Compare(flag(!a.Pool), flag(!b.Pool)), cmp.Compare(firstPrice(a.Existing), firstPrice(b.Existing)), cmp.Compare(firstPrice(a.New), firstPrice(b.New)))
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
	var list []api.InstanceOffer
	for _, o := range p.Offers {
		here := len(sites) == 1 && sites[0] == Site{} || slices.Contains(sites, Site{p.Fleets[f].ID, string(o.Backend), o.Region})
		if here && Fits(ask.Requirements, ask.Profile, o) == "" {
			o.Blocks, o.TotalBlocks = 1, 1
			list = append(list, o)
		}
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
