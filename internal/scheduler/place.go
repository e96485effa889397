package scheduler

import (
	"cmp"
	"maps"
	"slices"

	"dstack/internal/api"
	"dstack/internal/offer"
)

// Place goes through the queue in its order and places each gang as a whole or not at
// all. A patient gang that cannot be placed, but could be on hosts that exist, keeps what
// it could use from those behind it, so that they pass it only with what it has no use
// for. One that is open keeps all that it could use, since it may need something new or may not;
// who lacks that is open as well. Place changes nothing but its own copies.
//
// Those that providers refused do not ask again for a while. When one behind them is about to ask for
// what they would have, the first of them asks too. One for which a machine boots that is no dearer waits for that.
func Place(queue []Gang, s Supply) []Verdict {
	p := newPlacer(s)
	verdicts := make([]Verdict, len(queue))
	type alike struct { // gangs of which the first speaks for the others
		key        string
		buys, asks bool
	}
	type refusal struct {
		v  Verdict
		of *Gang
	}
	refused := map[alike]refusal{}
	var asks []int // those that wait to ask again, the first of each kind
	for i := range queue {
		g := &queue[i]
		if v, waits := p.await(g); waits {
			verdicts[i] = v
			continue
		}
		kind := alike{g.Key, g.BuyFrom.IsZero(), g.Asks}
		if r, ok := refused[kind]; ok && g.Key != "" {
			verdicts[i] = r.v.of(r.of, g)
			continue
		}
		if n, asked := p.ahead(g, queue, asks); n >= 0 {
			verdicts[asks[n]] = asked
			asks = slices.Delete(asks, n, n+1)
		}
		v := p.place(g)
		verdicts[i] = v
		if v.Nodes != nil {
			continue
		}
		p.leaveComing(g, v)
		switch {
		case v.Open:
			p.keepAll(g)
		case g.Patient:
			if v.Later {
				p.hold(g)
			}
			p.holdRoom(g)
		}
		refused[kind] = refusal{v, g}
		if g.Asks && len(asks) < maxAsks {
			asks = append(asks, i)
		}
	}
	return verdicts
}

// placer holds the supply as it shrinks while gangs are placed.
type placer struct {
	Supply
	free    []int                 // blocks of each host that later gangs may use, see leave
	own     bool                  // free is not the stock's
	kept    map[int]kept          // free blocks of hosts that wait for a gang
	room    []int                 // of each fleet
	inFleet [][]int               // hosts of each fleet
	byKey   map[string]serving    // see shares
	queues  map[string]*hostQueue // of gangs with one job, by key and fleet
	asked   map[jobOf]*view       // see wish
	taken   rooms                 // of reservations
	tried   map[offer.Key]bool    // offers of which gangs have new instances
	only    map[offer.Key]bool    // the only offers of which there are new instances now, nil for all
	vain    map[attempt]bool      // see ahead
	rooms   []keptRoom            // in the order of the queue
	open    []bool                // fleets of which open gangs keep something
	coming  *placer               // on the machines that boot alone, nil for none; see await
	useless map[string]bool       // keys of gangs for which those would not do
}

// jobOf is a job of a gang, in a fleet.
type jobOf struct {
	gang  *Gang
	fleet int
	job   int
}

// kept are free blocks that later gangs may not use.
type kept struct {
	blocks    int
	gang, run string
}

// keptRoom is how many instances a fleet may have more that later gangs may not have.
type keptRoom struct {
	fleet, instances int
	gang, run        string
}

// hostQueue lists the hosts that fit a job, best first. What it skipped once is skipped
// for good: free blocks only become fewer while gangs are placed.
type hostQueue struct{ hosts []int }

// index is that of the offers.
func (p *placer) index() *Index {
	p.Supply = p.indexed()
	return p.Index
}

func newPlacer(s Supply) *placer {
	s = s.stocked()
	p := &placer{
		Supply: s, free: s.Stock.free, room: make([]int, len(s.Fleets)), inFleet: make([][]int, len(s.Fleets)),
		kept: map[int]kept{}, byKey: map[string]serving{}, queues: map[string]*hostQueue{}, asked: map[jobOf]*view{}, taken: rooms{}, tried: map[offer.Key]bool{}, vain: map[attempt]bool{}, open: make([]bool, len(s.Fleets)),
	}
	for i := range s.Fleets {
		p.room[i], p.inFleet[i] = s.Fleets[i].Room, s.Stock.of[s.Fleets[i].ID]
	}
	if len(s.Coming) > 0 {
		p.coming, p.useless = newPlacer(Supply{Fleets: s.Fleets, Hosts: s.Coming}), map[string]bool{}
		clear(p.coming.room) // nothing new is made there
	}
	return p
}

// leave has so many blocks of a host free for later gangs. The stock is everybody's: the first time it
// copies what is free of it.
func (p *placer) leave(host, blocks int) {
	if !p.own {
		p.free, p.own = slices.Clone(p.free), true
	}
	p.free[host] = blocks
}

func (p *placer) place(g *Gang) Verdict {
	v := p.decide(g)
	if v.Nodes == nil && !v.Open {
		v.Why = p.words(g, v)
	}
	return v
}

// decide is place but for the words.
func (p *placer) decide(g *Gang) Verdict {
	fleets := p.fleetsOf(g)
	best := p.best(g)
	switch {
	case best != nil:
		return p.take(g, best)
	case g.Open || slices.ContainsFunc(fleets, func(f int) bool { return p.open[f] }):
		return Verdict{Gang: g.ID, Open: true}
	}
	return p.refuse(g, fleets)
}

// refuse says what is missing for a gang that has no place in its fleets.
func (p *placer) refuse(g *Gang, fleets []int) Verdict {
	if len(fleets) == 0 {
		return p.noFleet(g)
	}
	shares := p.shares(g)
	impossible := func(f int) bool { return !p.possible(g, f, shares, func(*Host) bool { return true }) }
	if able := slices.DeleteFunc(slices.Clone(fleets), impossible); len(able) > 0 {
		return p.later(g, able, shares)
	}
	return p.missing(g, fleets, shares)
}

// best is the best way to place a gang, nil when there is none.
func (p *placer) best(g *Gang) *plan {
	shares := p.shares(g)
	var best *plan
	for _, f := range p.fleetsOf(g) {
		if c := p.within(g, f, shares); c != nil && (best == nil || c.before(best)) {
			best = c
		}
	}
	return best
}

// fleetsOf are the indexes of the fleets that a gang may use.
func (p *placer) fleetsOf(g *Gang) []int {
	var list []int
	for i := range p.Fleets {
		if g.mayUse(&p.Fleets[i]) {
			list = append(list, i)
		}
	}
	return list
}

func (g *Gang) mayUse(f *Fleet) bool {
	return g.uses(f) && (g.Beside.Fleet == "" || g.Beside.Fleet == f.ID) && (!g.Cluster || f.Cluster)
}

// plan is a way to place a gang within one fleet.
type plan struct {
	fleet int
	hosts []int // per job, -1 for a new instance
	nodes []Node
	fresh int     // new instances
	price float64 // of all nodes, per hour: that by which they have their places among offers
	rooms rooms   // that the new instances and those of others take
}

// before prefers hosts that exist to new ones, then the cheaper plan.
func (a *plan) before(b *plan) bool {
	return cmp.Or(cmp.Compare(a.fresh, b.fresh), cmp.Compare(a.price, b.price)) < 0
}

// within finds the best way to place a gang in a fleet now, nil when there is none.
func (p *placer) within(g *Gang, f int, shares []serving) *plan {
	for _, site := range p.sites(g, f) {
		c := &plan{fleet: f, nodes: make([]Node, len(g.Jobs)), rooms: maps.Clone(p.taken)}
		c.hosts = p.freeHosts(g, f, site, shares)
		ok := true
		for j, w := range g.Jobs {
			if i := c.hosts[j]; i >= 0 {
				o := offerOf(p.Hosts[i], shares[j].of(i), api.Idle)
				c.nodes[j] = Node{Job: w.Job, Host: p.Hosts[i].ID, Blocks: o.Blocks, Offer: o}
				c.price += o.Price
				continue
			}
			node, found := p.fresh(g, f, site, j, c.rooms)
			if ok = found; !ok {
				break
			}
			c.nodes[j] = node
			c.fresh++
			c.price += node.Offer.Price * (1 + node.Offer.Penalty)
		}
		if ok && (p.room[f] < 0 || c.fresh <= p.room[f]) {
			return c // the sites come cheapest first
		}
	}
	return nil
}

// sites are the places within a fleet to try, cheapest first: anywhere, but one backend and
// region for a cluster.
func (p *placer) sites(g *Gang, f int) []Site {
	if g.Beside != (Site{}) {
		return []Site{g.Beside}
	}
	if !g.Cluster {
		return []Site{{}}
	}
	var list []Site
	add := func(o api.InstanceOffer) {
		s := Site{p.Fleets[f].ID, string(o.Backend), o.Region}
		if !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	for _, i := range p.inFleet[f] {
		add(p.Hosts[i].Offer)
	}
	if at := p.Fleets[f].At; at != (Site{}) && !slices.Contains(list, at) { // of instances that jobs do not see yet
		list = append(list, at)
	}
	if v := p.wish(g, f, 0); v != nil && list == nil { // a cluster fleet stays where its first instance is
		seen := make([]bool, len(v.places))
		for i := range v.inOrder() {
			if place := v.rows[i].place; !seen[place] && v.offers[i].Multinode {
				seen[place] = true
				add(v.offers[i])
			}
		}
	}
	return list
}

// newAt are the places in which new instances of a fleet may be made for a gang: one that needs no cluster
// does not take that of the fleet elsewhere.
func (p *placer) newAt(g *Gang, f int) []Site {
	list := p.sites(g, f)
	for n := range list {
		if list[n] == (Site{}) {
			list[n] = p.Fleets[f].At
		}
	}
	return list
}

// take books a plan.
func (p *placer) take(g *Gang, c *plan) Verdict {
	for j, i := range c.hosts {
		if i >= 0 {
			p.leave(i, p.free[i]-c.nodes[j].Blocks)
		} else {
			p.tried[KeyOf(&c.nodes[j].Offer)] = true
		}
	}
	if p.room[c.fleet] > 0 {
		p.room[c.fleet] -= c.fresh
	}
	p.taken = c.rooms
	return Verdict{Gang: g.ID, Fleet: p.Fleets[c.fleet].ID, Nodes: c.nodes}
}

// possible says that the hosts of a fleet, those that count, would serve the gang if all of them were free
// and ready.
func (p *placer) possible(g *Gang, f int, shares []serving, counts func(*Host) bool) bool {
	for _, site := range p.sites(g, f) {
		hosts := p.match(g, f, site, shares, func(i, n int) bool { return n <= p.Hosts[i].Blocks && counts(p.Hosts[i]) })
		missing, taken := 0, maps.Clone(p.taken)
		ok := true
		for j, i := range hosts {
			if i < 0 {
				missing++
				_, can := p.fresh(g, f, site, j, taken)
				ok = ok && can
			}
		}
		if ok && missing < len(hosts) && (p.room[f] < 0 || missing <= p.room[f]) {
			return true
		}
	}
	return false
}
