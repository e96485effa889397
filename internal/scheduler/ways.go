package scheduler

import (
	"slices"

	"dstack/internal/api"
)

// tally asks of everything that there is what stands between it and a gang's first job.
func (p *placer) tally(g *Gang, anyway bool) *Tally {
	t := &Tally{}
	p.tallyHosts(t, g)
	run := Ask{g.Profile, g.Jobs[0].Requirements}
	growing := p.growing(g, run, anyway)
	x := p.index()
	views, sites := []*view{x.under(&run)}, [][]Site(nil)
	for _, f := range growing {
		views = append(views, x.under(&f.ask))
		if f.both.Profile.AvailabilityZones != nil || f.both.Requirements.Reservation != nil {
			views = append(views, x.under(&f.both))
		}
		if f.run != nil {
			views = append(views, x.under(f.run))
		}
		sites = append(sites, f.sites)
	}
	var ways []way
	for _, c := range x.cells(views, nil, sites...) { // of which the rules say the same
		o := &x.offers[c.first]
		missed := run.missed(o)
		ways = ways[:0]
		for _, f := range growing {
			ways = append(ways, f.way(o, missed))
		}
		if anyway {
			ways = append(ways, way{fleet: noFleet, run: missed | g.refusesNew() | g.refusesFleets(g.Fleets == nil), state: run.state(o)})
		}
		if len(ways) > 0 {
			t.add(c.n, c.price, ways...)
		}
	}
	return t
}

// tallyHosts adds the hosts, those of a fleet at once that are alike and of which as much is free.
func (p *placer) tallyHosts(t *Tally, g *Gang) {
	type alike struct {
		kind  uint32
		free  int
		named bool
	}
	type some struct{ first, n int }
	var ways []way
	ofKind := make([][]Misses, len(p.Stock.kinds)) // nil where they are not known
	hosts := map[alike]some{}
	for f := range p.Fleets {
		clear(hosts)
		for _, i := range p.inFleet[f] {
			h := p.Hosts[i]
			if h.Out {
				continue
			}
			like := alike{p.Stock.kind[i], p.free[i], selected(g.Profile.Instances, &p.Fleets[f], h)}
			of, known := hosts[like]
			if !known {
				of.first = i
			}
			of.n++
			hosts[like] = of
		}
		for like, of := range hosts {
			missed := &ofKind[like.kind]
			if *missed == nil {
				*missed = shareMisses(g, p.Hosts[of.first])
			}
			if ways = p.hostWays(ways[:0], g, f, of.first, *missed); len(ways) > 0 {
				t.add(of.n, p.Stock.price(of.first), ways...)
			}
		}
	}
}

func (a *Ask) missed(o *api.InstanceOffer) Misses { return Missed(&a.Requirements, &a.Profile, o) }

// refusesNew is what a gang says against new instances.
func (g *Gang) refusesNew() (m Misses) {
	if g.Reuse {
		m |= 1 << mayReuseOnly
	}
	if len(g.Profile.Instances) > 0 {
		m |= 1 << otherInstance
	}
	return m
}

// refusesFleets is what a gang says against a fleet that it names, or does not.
func (g *Gang) refusesFleets(named bool) Misses {
	if named {
		return 0
	}
	return 1 << otherFleet
}

// uses says that a gang names a fleet, or none.
func (g *Gang) uses(f *Fleet) bool { return g.Fleets == nil || slices.Contains(g.Fleets, f.ID) }

// hostWays are the shares of a host that a gang's first job could have, none where its other
// nodes are elsewhere; missed are their misses, from the smallest that it may have.
func (p *placer) hostWays(ways []way, g *Gang, f, i int, missed []Misses) []way {
	h, fleet := p.Hosts[i], &p.Fleets[f]
	if b := g.Beside; b != (Site{}) && b != (Site{fleet.ID, string(h.Offer.Backend), h.Offer.Region}) {
		return nil
	}
	w := way{fleet: f, run: g.refusesFleets(g.uses(fleet))}
	if !selected(g.Profile.Instances, fleet, h) {
		w.run |= 1 << otherInstance
	}
	if g.Cluster && !fleet.Cluster {
		w.settings |= 1 << needMultinode
	}
	for n, m := range missed {
		share := w
		share.run |= m
		share.state = api.Busy
		if g.fewest(h)+n <= p.free[i] {
			share.state = api.Idle
		}
		ways = append(ways, share)
	}
	return ways
}

// fewest is the smallest number of a host's blocks that a job may have: nodes of a cluster get
// whole hosts.
func (g *Gang) fewest(h *Host) int {
	if g.Cluster {
		return h.Blocks
	}
	return 1
}

// shareMisses is what the shares of a host miss for a gang's first job.
func shareMisses(g *Gang, h *Host) []Misses {
	var list []Misses
	for n := g.fewest(h); n <= h.Blocks; n++ {
		o := offerOf(h, n, api.Idle)
		m := Missed(&g.Jobs[0].Requirements, &g.Profile, &o)
		if !zoned(g.Profile.AvailabilityZones, h.Zone) {
			m |= 1 << needZone
		}
		list = append(list, m)
	}
	return list
}

// grower is a fleet that backends make instances for, with what it and a run ask.
type grower struct {
	fleet     int
	id        string
	ask       Ask
	both      Ask    // what both ask for
	run       *Ask   // the run's, where it reads otherwise beside the fleet's
	missed    Misses // of the run's requirements, by every offer
	settings  Misses // the same of the fleet's
	conflicts Misses
	sites     []Site // where its cluster may be; nil: anywhere
	kept      bool   // what it may grow by is another gang's
}

// growing are the fleets through which offers are had.
func (p *placer) growing(g *Gang, run Ask, anyway bool) []grower {
	if anyway && g.Fleets == nil {
		return nil // without any
	}
	var list []grower
	for i := range p.Fleets {
		f := &p.Fleets[i]
		named := g.uses(f)
		if f.Hosts || anyway && !named || g.Beside.Fleet != "" && g.Beside.Fleet != f.ID {
			continue
		}
		if list == nil { // they are large: to grow a list of twenty takes three times as much
			list = make([]grower, 0, len(p.Fleets)-i)
		}
		one := grower{fleet: i, id: f.ID, missed: g.refusesNew() | g.refusesFleets(named)}
		one.ask, _ = f.Ask.beside(run)
		if other, changed := run.beside(f.Ask); changed {
			one.run = &other
		}
		both, conflicts := combine(f.Ask, run)
		one.both, one.conflicts = both, conflicts
		if f.Room == 0 {
			one.settings |= 1 << fleetIsFull
		}
		one.kept = f.Room != 0 && p.room[i] == 0
		if g.Cluster && !f.Cluster {
			one.settings |= 1 << needMultinode
		}
		if g.Beside != (Site{}) || f.At != (Site{}) || g.Cluster && len(p.inFleet[i]) > 0 {
			one.sites = p.newAt(g, i)
		}
		list = append(list, one)
	}
	return list
}

// way is what stands between an offer and a new instance of the fleet; run is what the offer
// misses of the run's requirements.
func (f *grower) way(o *api.InstanceOffer, run Misses) way {
	if f.run != nil {
		run = f.run.missed(o)
	}
	w := way{fleet: f.fleet, run: run | f.missed, settings: f.ask.missed(o) | f.settings, state: f.both.state(o)}
	if f.kept {
		w.state = api.Busy
	}
	if f.sites != nil && !slices.Contains(f.sites, Site{f.id, string(o.Backend), o.Region}) {
		w.settings |= 1 << otherPlace
	}
	w.both = f.conflicts
	if zones := f.both.Profile.AvailabilityZones; zones != nil && !inZones(zones, o) {
		w.both |= 1 << needZone
	}
	w.both &^= w.run | w.settings
	return w
}
