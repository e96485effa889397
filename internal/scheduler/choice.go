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

	placer *placer
	among  []int    // indexes of the fleet's hosts
	shares serving  // for the job
	fit    int      // hosts that do
	lowest float64  // price of those that are free, per hour; infinite without any
	fresh  *fitting // offers for new ones
}

// Existing are the shares of instances, cheapest first. They are made here, since of all choices
// most often one is looked at, and once for instances that are alike.
func (c Choice) Existing() Found {
	hosts := make([]int, 0, c.fit)
	for _, i := range c.among {
		if c.shares.of(i) > 0 && !c.placer.Hosts[i].Out {
			hosts = append(hosts, i)
		}
	}
	p := c.placer
	slices.SortStableFunc(hosts, func(a, b int) int { return cmp.Compare(p.Stock.price(a), p.Stock.price(b)) })
	type alike struct {
		kind         uint32
		blocks       int
		availability api.InstanceAvailability
	}
	made := map[alike]*api.InstanceOffer{}
	list := make([]*api.InstanceOffer, len(hosts))
	for n, i := range hosts {
		one := alike{p.Stock.kind[i], c.shares.of(i), api.Busy}
		if one.blocks <= p.free[i] {
			one.availability = api.Idle
		}
		if made[one] == nil {
			made[one] = new(offerOf(p.Hosts[i], one.blocks, one.availability))
		}
		list[n] = made[one]
	}
	return These(list)
}

// Offers lists existing instances before new ones, and what can be used before what cannot.
func (c Choice) Offers() Found {
	f := c.Existing()
	if c.fresh != nil {
		f.index = c.fresh.Index
	}
	shares, offers := f.order, f.fresh(c.fresh)
	f.order = make([]int, 0, len(shares)+len(offers))
	for _, want := range []bool{true, false} {
		for _, part := range [][]int{shares, offers} {
			for _, at := range part {
				if f.usable(at) == want {
					f.order = append(f.order, at)
				}
			}
		}
	}
	return f
}

// Choices lists what each fleet that may serve a gang could give, best fleet first
// (lifecycle 7.5): one with free instances for all jobs, then the cheapest free instance,
// then the cheapest offer.
func Choices(g Gang, s Supply) []Choice {
	p := newPlacer(s)
	fleets := p.fleetsOf(&g)
	shares := p.shares(&g)
	list := make([]Choice, 0, len(fleets))
	for _, f := range fleets {
		c := Choice{Fleet: p.Fleets[f].ID, placer: p, among: p.inFleet[f], shares: shares[0], lowest: math.Inf(1)}
		free := 0
		for _, i := range c.among {
			n := c.shares.of(i)
			if n == 0 {
				continue
			}
			c.fit++
			if n <= p.free[i] {
				free++
				c.lowest = min(c.lowest, p.Stock.price(i))
			}
		}
		c.Pool = free >= len(g.Jobs)
		c.fresh = p.offers(&g, f)
		list = append(list, c)
	}
	slices.SortStableFunc(list, func(a, b Choice) int {
		return cmp.Or(cmp.Compare(flag(!a.Pool), flag(!b.Pool)), cmp.Compare(a.lowest, b.lowest), cmp.Compare(a.fresh.lowest(), b.fresh.lowest()))
	})
	return list
}

// offers are those of which a fleet could make a new instance for a gang's first job.
func (p *placer) offers(g *Gang, f int) *fitting {
	if g.refusesNew() != 0 || p.room[f] == 0 {
		return nil
	}
	v := p.wish(g, f, 0)
	if v == nil {
		return nil
	}
	return &fitting{view: v, here: v.at(p.newAt(g, f))}
}

// fitting are the offers of a view that fit in some places, found when somebody wants to know; nil
// has none.
type fitting struct {
	*view
	here  func(i int) bool
	found bool
	fit   []int
}

// all are their numbers.
func (n *fitting) all() []int {
	switch {
	case n == nil:
		return nil
	case n.found:
		return n.fit
	}
	n.found = true
	for i := range n.inOrder() {
		if n.here(i) {
			n.fit = append(n.fit, i)
		}
	}
	return n.fit
}

// lowest is the price by which the first has its place that can be had now, infinite without any.
func (n *fitting) lowest() float64 {
	if n != nil {
		for i := range n.inOrder() {
			if n.here(i) && n.usable(i) {
				return n.rows[i].price * (1 + n.offers[i].Penalty)
			}
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
