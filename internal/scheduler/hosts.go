package scheduler

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"dstack/internal/api"
	"dstack/internal/config"
)

// serving is how many blocks of each host would serve a want, regardless of what is busy; 0 where
// none do.
type serving struct {
	kind   []uint32 // of each host
	blocks []int    // that serve, by kind
	named  []bool   // the hosts that were asked for by name, nil for all
}

func (s serving) of(host int) int {
	if s.named != nil && !s.named[host] {
		return 0
	}
	return s.blocks[s.kind[host]]
}

// equal says that the same blocks of the same hosts would serve both.
func (s serving) equal(o serving) bool {
	return slices.Equal(s.blocks, o.blocks) && slices.Equal(s.named, o.named) && (s.named == nil) == (o.named == nil)
}

// shares finds what of the hosts would serve each job of the gang.
func (p *placer) shares(g *Gang) []serving {
	out := make([]serving, len(g.Jobs))
	var named []bool
	for n, w := range g.Jobs {
		key := ""
		if g.Key != "" {
			key = fmt.Sprintf("%s/%d", g.Key, n)
			if known, ok := p.byKey[key]; ok {
				out[n] = known
				continue
			}
		}
		if named == nil {
			named = p.named(g)
		}
		s := serving{kind: p.Stock.kind, blocks: make([]int, len(p.Stock.kinds)), named: named}
		for kind, i := range p.Stock.kinds {
			s.blocks[kind] = shareOf(g, w, p.Hosts[i])
		}
		out[n] = s
		if key != "" {
			p.byKey[key] = s
		}
	}
	return out
}

// shareOf is how many blocks of one host serve a want, 0 when none do, whether it is selected or
// not. Nodes of a cluster get whole hosts.
func shareOf(g *Gang, w Want, h *Host) int {
	if !zoned(g.Profile.AvailabilityZones, h.Zone) {
		return 0
	}
	if g.Beside != (Site{}) && (g.Beside.Backend != string(h.Offer.Backend) || g.Beside.Region != h.Offer.Region) {
		return 0
	}
	from := 1
	if g.Cluster {
		from = h.Blocks
	}
	for n := from; n <= h.Blocks; n++ {
		if Fits(w.Requirements, g.Profile, offerOf(h, n, api.Idle)) == "" {
			return n
		}
	}
	return 0
}

// offerOf is so many blocks of a host as an offer.
func offerOf(h *Host, blocks int, a api.InstanceAvailability) api.InstanceOffer {
	o := h.Offer
	o.Instance.Resources = Share(o.Instance.Resources, blocks, h.Blocks)
	o.Blocks, o.TotalBlocks, o.Availability = blocks, h.Blocks, a
	return o
}

// zoned is true unless it is known that a zone was not asked for.
func zoned(asked []string, zone string) bool {
	return zone == "" || asked == nil || contains(asked, zone)
}

// freeHosts finds a host for as many jobs of the gang as possible, -1 for the others.
func (p *placer) freeHosts(g *Gang, f int, site Site, shares []serving) []int {
	if len(g.Jobs) > 1 || site != (Site{}) || g.Key == "" {
		return p.match(g, f, site, shares, func(i, n int) bool { return n <= p.free[i] })
	}
	key := fmt.Sprintf("%s/%d", g.Key, f)
	q := p.queues[key]
	if q == nil {
		q = &hostQueue{hosts: p.byPrice(f, func(i int) bool { return shares[0].of(i) > 0 })}
		p.queues[key] = q
	}
	for len(q.hosts) > 0 {
		if i := q.hosts[0]; shares[0].of(i) <= p.free[i] {
			return q.hosts[:1:1]
		}
		q.hosts = q.hosts[1:]
	}
	return []int{-1}
}

// match assigns jobs to different places on hosts, as many as possible (augmenting paths);
// -1 marks the jobs that got none. Jobs of one gang share a host only when it is no
// cluster, which has one job.
func (p *placer) match(g *Gang, f int, site Site, shares []serving, free func(host, blocks int) bool) []int {
	taken := map[int]int{} // host → job
	out := make([]int, len(g.Jobs))
	for j := range out {
		out[j] = -1
	}
	usable := func(j, i int) bool {
		h, n := p.Hosts[i], shares[j].of(i)
		return n > 0 && free(i, n) && (site == Site{} || site.Backend == string(h.Offer.Backend) && site.Region == h.Offer.Region)
	}
	lists := make([][]int, len(g.Jobs)) // one for jobs that ask for the same
	for j := range g.Jobs {
		if j > 0 && shares[j].equal(shares[j-1]) {
			lists[j] = lists[j-1]
			continue
		}
		lists[j] = p.byPrice(f, func(i int) bool { return usable(j, i) })
	}
	var try func(j int, seen map[int]bool) bool
	try = func(j int, seen map[int]bool) bool {
		hosts := lists[j]
		for _, i := range hosts {
			if _, busy := taken[i]; !busy {
				taken[i], out[j] = j, i
				return true
			}
		}
		for _, i := range hosts {
			if seen[i] {
				continue
			}
			seen[i] = true
			if try(taken[i], seen) {
				taken[i], out[j] = j, i
				return true
			}
		}
		return false
	}
	// What a search without success has seen leads to no free host for the next one either, until something is taken.
	seen := map[int]bool{}
	for j := range g.Jobs {
		if try(j, seen) {
			clear(seen)
		}
	}
	return out
}

// byPrice lists the usable hosts of a fleet, cheapest and fullest first: what is whole
// stays whole for those who need all of it.
func (p *placer) byPrice(f int, usable func(host int) bool) []int {
	var list []int
	for _, i := range p.inFleet[f] {
		if usable(i) {
			list = append(list, i)
		}
	}
	slices.SortStableFunc(list, func(a, b int) int {
		return cmp.Or(cmp.Compare(p.Stock.price(a), p.Stock.price(b)), cmp.Compare(p.free[a], p.free[b]))
	})
	return list
}

// hold keeps everything that a gang could use from those behind it, but not while it lacks hosts that are out:
// nobody knows when those come back.
func (p *placer) hold(g *Gang) {
	fleets := p.fleetsOf(g)
	shares := p.shares(g)
	for _, f := range fleets {
		if !p.possible(g, f, shares, func(h *Host) bool { return !h.Out }) {
			continue
		}
		p.keep(g, f, shares)
		for j := range g.Jobs {
			node, can := p.fresh(g, f, g.Beside, j, maps.Clone(p.taken))
			if can && (p.room[f] > 0 || node.Ask.Requirements.Reservation != nil) { // there is room for all without either limit
				p.room[f] = 0
			}
		}
	}
}

// holdRoom keeps for a gang that waits to ask providers again the room of the fleet in which it will: whoever
// took it would have it for as long as it runs.
func (p *placer) holdRoom(g *Gang) {
	if g.BuyFrom.IsZero() {
		return
	}
	later := *g
	later.BuyFrom = time.Time{}
	if next := p.best(&later); next != nil && next.fresh > 0 && p.room[next.fleet] > 0 {
		p.rooms = append(p.rooms, keptRoom{next.fleet, next.fresh, g.ID, g.Run})
		p.room[next.fleet] -= next.fresh
	}
}

// keepAll keeps all that a gang could use from those behind it: hosts, and the room for new ones
// where that is limited.
func (p *placer) keepAll(g *Gang) {
	shares := p.shares(g)
	for _, f := range p.fleetsOf(g) {
		p.keep(g, f, shares)
		p.open[f] = true
		if p.room[f] > 0 && g.buys() {
			p.room[f] = 0
		}
	}
}

// keep keeps the hosts of a fleet that a gang could use from those behind it.
func (p *placer) keep(g *Gang, f int, shares []serving) {
	for _, i := range p.inFleet[f] {
		for j := range g.Jobs {
			if shares[j].of(i) > 0 && p.free[i] > 0 {
				p.kept[i] = kept{p.free[i], g.ID, g.Run}
				p.leave(i, 0)
			}
		}
	}
}

// withOwn does something while a gang may use what is kept for it; what it does not take is kept on, but for
// room when it is placed.
func (p *placer) withOwn(g *Gang, do func() (placed bool)) {
	own := slices.IndexFunc(p.rooms, func(k keptRoom) bool { return k.gang == g.ID })
	if own >= 0 {
		p.room[p.rooms[own].fleet] += p.rooms[own].instances
	}
	for i, k := range p.kept {
		if k.gang == g.ID {
			p.leave(i, k.blocks)
		}
	}
	placed := do()
	switch {
	case own >= 0 && placed:
		p.rooms = slices.Delete(p.rooms, own, own+1)
	case own >= 0:
		p.room[p.rooms[own].fleet] -= p.rooms[own].instances
	}
	for i, k := range p.kept {
		if k.gang == g.ID {
			k.blocks = p.free[i]
			p.leave(i, 0)
			p.kept[i] = k
		}
	}
}

// named says of each host whether a gang names it, nil when it names none.
func (p *placer) named(g *Gang) []bool {
	if len(g.Profile.Instances) == 0 {
		return nil
	}
	named := make([]bool, len(p.Hosts))
	for f, list := range p.inFleet {
		for _, i := range list {
			named[i] = selected(g.Profile.Instances, &p.Fleets[f], p.Hosts[i])
		}
	}
	return named
}

// selected says that a host of a fleet is among those that were asked for by name.
func selected(sel []config.InstanceSelector, f *Fleet, h *Host) bool {
	if len(sel) == 0 {
		return true
	}
	for _, s := range sel {
		switch {
		case s.Name != nil && *s.Name == h.Name,
			s.Hostname != nil && contains(h.Hostnames, *s.Hostname),
			s.Fleet != nil && s.Instance == h.Num && f.Is(*s.Fleet):
			return true
		}
	}
	return false
}
