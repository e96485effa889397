package scheduler

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unique"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/offer"
)

// A Gang is what is placed together or not at all: the waiting jobs of one replica.
type Gang struct {
	ID string
	// Key is equal for gangs that ask for the same: one that cannot be placed says the same
	// of those behind it, which makes a long queue of equal runs cheap. "" is unique.
	Key     string
	Jobs    []Want
	Profile config.ProfileParams
	// Fleets are the ids of the fleets that may serve the gang, nil for all.
	Fleets []string
	// Cluster asks for nodes that reach each other; set when the replica has several nodes.
	Cluster bool
	// Beside restricts a cluster to where the replica's other nodes are; the zero value for
	// none.
	Beside Site
	// Reuse allows no new instances.
	Reuse bool
	// BuyFrom is when new instances are allowed again of offers that were refused lately, if that is not
	// now: this gang was one of those that were refused.
	BuyFrom time.Time
	// Asks says of such a gang that its last refusal is a while ago: it may have new instances of other
	// offers, and asks with the first behind it that would have the same.
	Asks bool
	// Patient gangs wait for their turn: what they could use is kept from those behind them.
	Patient bool
	// Open says that it is not known yet what backends offer that the gang may use: it is placed on
	// hosts that exist, or not yet.
	Open bool
	// Run is the name of the run, for what those behind it are told.
	Run string
}

// Want is what one job of a gang needs.
type Want struct {
	Job          string
	Requirements api.Requirements
}

// Site is a place whose instances reach each other.
type Site struct {
	Fleet, Backend, Region string
}

// Host is an instance that exists or comes to be.
type Host struct {
	ID    string
	Fleet string // id
	// Key is equal for hosts with the same Offer, Blocks and Zone, of which rules are asked
	// once; its zero value is like no other.
	Key unique.Handle[string]
	// Name, Hostnames (and addresses), FleetName and Num are what people select it by.
	Name      string
	Hostnames []string
	FleetName string
	Num       int
	Zone      string // "" when unknown
	// Offer is the whole instance with its price.
	Offer  api.InstanceOffer
	Blocks int // in how many parts it can be shared, ≥ 1
	Busy   int // of them
	Ready  bool
	// Out says that it is not ready because something is wrong: it does not answer, or its GPUs
	// have failed. Plans leave it out (lifecycle 7.6), while who waits for it may still get it.
	Out bool
}

// Fleet is a group of hosts with limits for new ones.
type Fleet struct {
	ID, Name, Project string
	Cluster           bool
	// Hosts says that the instances are the user's own: no new ones.
	Hosts bool
	// Room is how many instances may be added, -1 without limit.
	Room int
	Ask  Ask
}

// Supply is everything that gangs can be placed on.
type Supply struct {
	Fleets []Fleet // in the order in which ties are decided
	Hosts  []*Host // by fleet and number; nobody changes them
	// Offers are what backends could provide, in the order of [Sort].
	Offers []api.InstanceOffer
	// Index is that of Offers; nil has it made.
	Index *Index
	// Refused says which of them could not be had lately; nil for none.
	Refused func(offer.Key) bool
	// Backends is how many there are that could provide any.
	Backends int
	// Silent are those that do not say what they offer.
	Silent []Silence
}

// A Silence is a backend that does not say what it offers, with a sentence for people.
type Silence struct{ Backend, Text string }

// A Node is one job's place: Blocks of a host, or a new instance of an offer.
type Node struct {
	Job    string
	Host   string // "": a new instance
	Blocks int
	// Offer is the share of the host, or what to create.
	Offer api.InstanceOffer
	// Ask is the combined wish of fleet and run, for a new instance whose first offer fails.
	Ask Ask
}

// Verdict is what becomes of one gang.
type Verdict struct {
	Gang  string
	Fleet string
	Nodes []Node // in the order of the jobs; nil when it is not placed
	// Why tells people what is missing; NoFleet that no fleet could ever serve the gang.
	Why     string
	NoFleet bool
	// Later says that hosts which exist would do if they were free, Open that nothing is decided.
	Later, Open bool
	// Reasons are the sentences of Why, but for what may help.
	Reasons []string
}

// Place goes through the queue in its order and places each gang as a whole or not at
// all. A patient gang that cannot be placed, but could be on hosts that exist, keeps what
// it could use from those behind it, so that they pass it only with what it has no use
// for. One that is open keeps all that it could use, since it may need something new or may not;
// who lacks that is open as well. Place changes nothing but its own copies.
//
// Those that providers refused do not ask again for a while. When one behind them is about to ask for
// what they would have, the first of them asks too.
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
		kind := alike{g.Key, g.BuyFrom.IsZero(), g.Asks}
		if r, ok := refused[kind]; ok && g.Key != "" {
			verdicts[i] = r.v.of(r.of, g)
			continue
		}
		if n, asked := p.ahead(g, queue, asks); n >= 0 {
			verdicts[asks[n]], asks = asked, slices.Delete(asks, n, n+1)
		}
		v := p.place(g)
		verdicts[i] = v
		if v.Nodes != nil {
			continue
		}
		switch {
		case v.Open:
			p.keepAll(g)
		case g.Patient && v.Later:
			p.hold(g)
		}
		refused[kind] = refusal{v, g}
		if g.Asks && len(asks) < maxAsks {
			asks = append(asks, i)
		}
	}
	return verdicts
}

// of is the verdict on one gang for another that is alike, which may buy at another time.
func (v Verdict) of(one, other *Gang) Verdict {
	v.Gang = other.ID
	if !one.BuyFrom.Equal(other.BuyFrom) {
		was, is := one.refusedLately(), other.refusedLately()
		v.Why = strings.Replace(v.Why, was, is, 1)
		if i := slices.Index(v.Reasons, was); i >= 0 {
			v.Reasons = slices.Clone(v.Reasons)
			v.Reasons[i] = is
		}
	}
	return v
}

// ahead has the first of those that wait to ask again ask with a gang that is about to ask for an offer
// which it would have too, and says which of them it is; -1 for none.
func (p *placer) ahead(g *Gang, queue []Gang, asks []int) (n int, v Verdict) {
	if len(asks) == 0 || g.Open || !g.BuyFrom.IsZero() {
		return -1, Verdict{}
	}
	mine := p.best(g)
	if mine == nil || mine.fresh == 0 {
		return -1, Verdict{}
	}
	for n, i := range asks {
		asking := queue[i]
		asking.BuyFrom = time.Time{}
		if theirs := p.best(&asking); theirs != nil && theirs.meets(mine) {
			return n, p.take(&asking, theirs)
		}
	}
	return -1, Verdict{}
}

// meets says that two plans have new instances of one offer.
func (a *plan) meets(b *plan) bool {
	return slices.ContainsFunc(a.nodes, func(x Node) bool {
		return x.Host == "" && slices.ContainsFunc(b.nodes, func(y Node) bool { return y.Host == "" && keyFor(&x.Offer) == keyFor(&y.Offer) })
	})
}

// maxAsks bounds the kinds of gangs that are looked at for that.
const maxAsks = 16

// placer holds the supply as it shrinks while gangs are placed.
type placer struct {
	Supply
	free    []int                 // blocks of each host that later gangs may use
	kept    map[int]kept          // free blocks of hosts that wait for a gang
	room    []int                 // of each fleet
	inFleet [][]int               // hosts of each fleet
	byKey   map[string][]int      // see shares
	queues  map[string]*hostQueue // of gangs with one job, by key and fleet
	asked   map[jobOf]*view       // see wish
	taken   rooms                 // of reservations
	open    []bool                // fleets of which open gangs keep something
}

// jobOf is a job of a gang, in a fleet.
type jobOf struct {
	gang  *Gang
	fleet int
	job   int
}

// kept are free blocks that later gangs may not use.
type kept struct {
	blocks int
	run    string
}

// hostQueue lists the hosts that fit a job, best first. What it skipped once is skipped
// for good: free blocks only become fewer while gangs are placed.
type hostQueue struct{ hosts []int }

// index is that of the offers.
func (p *placer) index() *Index {
	p.Supply = p.indexed()
	return p.Index
}

// indexed is a supply with the index of its offers.
func (s Supply) indexed() Supply {
	if s.Index == nil {
		s.Index = NewIndex(s.Offers)
	}
	return s
}

func newPlacer(s Supply) *placer {
	p := &placer{
		Supply: s, free: make([]int, len(s.Hosts)), room: make([]int, len(s.Fleets)), inFleet: make([][]int, len(s.Fleets)),
		kept: map[int]kept{}, byKey: map[string][]int{}, queues: map[string]*hostQueue{}, asked: map[jobOf]*view{}, taken: rooms{}, open: make([]bool, len(s.Fleets)),
	}
	index := make(map[string]int, len(s.Fleets))
	for i, f := range s.Fleets {
		p.room[i], index[f.ID] = f.Room, i
	}
	all := make([]int, len(s.Hosts))
	for i, h := range s.Hosts {
		all[i] = i
		if h.Ready {
			p.free[i] = h.Blocks - h.Busy
		}
	}
	for begin := 0; begin < len(all); { // they come by fleet
		end := begin + 1
		for end < len(all) && s.Hosts[end].Fleet == s.Hosts[begin].Fleet {
			end++
		}
		switch f, ok := index[s.Hosts[begin].Fleet]; {
		case ok && p.inFleet[f] == nil:
			p.inFleet[f] = all[begin:end:end]
		case ok:
			p.inFleet[f] = append(p.inFleet[f], all[begin:end:end]...)
		}
		begin = end
	}
	return p
}

func (p *placer) place(g *Gang) Verdict {
	fleets := p.fleetsOf(g)
	best := p.best(g)
	switch {
	case best != nil:
		return p.take(g, best)
	case g.Open || slices.ContainsFunc(fleets, func(f int) bool { return p.open[f] }):
		return Verdict{Gang: g.ID, Open: true}
	}
	v := p.refuse(g, fleets)
	v.Why = p.words(g, v)
	return v
}

// refuse says what is missing for a gang that has no place in its fleets.
func (p *placer) refuse(g *Gang, fleets []int) Verdict {
	if len(fleets) == 0 {
		return p.noFleet(g)
	}
	shares := p.shares(g)
	impossible := func(f int) bool { return !p.possible(g, f, shares) }
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

// buys says that the gang may have new instances.
func (g *Gang) buys() bool { return g.refusesNew() == 0 }

func (g *Gang) mayUse(f *Fleet) bool {
	return g.uses(f) && (g.Beside.Fleet == "" || g.Beside.Fleet == f.ID) && (!g.Cluster || f.Cluster)
}

// shares finds for each job of the gang how many blocks of every host would serve it,
// regardless of what is busy; 0 where none do.
func (p *placer) shares(g *Gang) [][]int {
	out := make([][]int, len(g.Jobs))
	for n, w := range g.Jobs {
		key := ""
		if g.Key != "" {
			key = fmt.Sprintf("%s/%d", g.Key, n)
			if known, ok := p.byKey[key]; ok {
				out[n] = known
				continue
			}
		}
		list := make([]int, len(p.Hosts))
		byHost := map[unique.Handle[string]]int{}
		for i, h := range p.Hosts {
			if !Selected(g.Profile.Instances, h) {
				continue
			}
			blocks, known := byHost[h.Key]
			if !known || h.Key == (unique.Handle[string]{}) {
				blocks = shareOf(g, w, h)
				byHost[h.Key] = blocks
			}
			list[i] = blocks
		}
		out[n] = list
		if key != "" {
			p.byKey[key] = list
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

// plan is a way to place a gang within one fleet.
type plan struct {
	fleet int
	hosts []int // per job, -1 for a new instance
	nodes []Node
	fresh int     // new instances
	price float64 // of all nodes, per hour
	rooms rooms   // that the new instances and those of others take
}

// before prefers hosts that exist to new ones, then the cheaper plan.
func (a *plan) before(b *plan) bool {
	return cmp.Or(cmp.Compare(a.fresh, b.fresh), cmp.Compare(a.price, b.price)) < 0
}

// within finds the best way to place a gang in a fleet now, nil when there is none.
func (p *placer) within(g *Gang, f int, shares [][]int) *plan {
	for _, site := range p.sites(g, f) {
		c := &plan{fleet: f, nodes: make([]Node, len(g.Jobs)), rooms: maps.Clone(p.taken)}
		c.hosts = p.freeHosts(g, f, site, shares)
		ok := true
		for j, w := range g.Jobs {
			if i := c.hosts[j]; i >= 0 {
				o := offerOf(p.Hosts[i], shares[j][i], api.Idle)
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
			c.price += node.Offer.Price
		}
		if ok && (p.room[f] < 0 || c.fresh <= p.room[f]) {
			return c // the sites come cheapest first
		}
	}
	return nil
}

// freeHosts finds a host for as many jobs of the gang as possible, -1 for the others.
func (p *placer) freeHosts(g *Gang, f int, site Site, shares [][]int) []int {
	if len(g.Jobs) > 1 || site != (Site{}) || g.Key == "" {
		return p.match(g, f, site, shares, func(i, n int) bool { return n <= p.free[i] })
	}
	key := fmt.Sprintf("%s/%d", g.Key, f)
	q := p.queues[key]
	if q == nil {
		q = &hostQueue{hosts: p.byPrice(f, func(i int) bool { return shares[0][i] > 0 })}
		p.queues[key] = q
	}
	for len(q.hosts) > 0 {
		if i := q.hosts[0]; shares[0][i] <= p.free[i] {
			return q.hosts[:1:1]
		}
		q.hosts = q.hosts[1:]
	}
	return []int{-1}
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
	occupied := false
	for _, i := range p.inFleet[f] {
		add(p.Hosts[i].Offer)
		occupied = true
	}
	if v := p.wish(g, f, 0); v != nil && !occupied { // a cluster fleet stays where its first instance is
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

// match assigns jobs to different places on hosts, as many as possible (augmenting paths);
// -1 marks the jobs that got none. Jobs of one gang share a host only when it is no
// cluster, which has one job.
func (p *placer) match(g *Gang, f int, site Site, shares [][]int, free func(host, blocks int) bool) []int {
	taken := map[int]int{} // host → job
	out := make([]int, len(g.Jobs))
	for j := range out {
		out[j] = -1
	}
	usable := func(j, i int) bool {
		h, n := p.Hosts[i], shares[j][i]
		return n > 0 && free(i, n) && (site == Site{} || site.Backend == string(h.Offer.Backend) && site.Region == h.Offer.Region)
	}
	var try func(j int, seen map[int]bool) bool
	try = func(j int, seen map[int]bool) bool {
		hosts := p.byPrice(f, func(i int) bool { return usable(j, i) })
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
	for j := range g.Jobs {
		try(j, map[int]bool{})
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
		return cmp.Or(cmp.Compare(p.Hosts[a].Offer.Price, p.Hosts[b].Offer.Price), cmp.Compare(p.free[a], p.free[b]))
	})
	return list
}

// fresh finds the best offer for a new instance of a fleet, beside those that take rooms in
// reservations, and counts it to them.
func (p *placer) fresh(g *Gang, f int, site Site, j int, taken rooms) (Node, bool) {
	if g.Open || !g.buys() || p.room[f] == 0 || !g.BuyFrom.IsZero() && !g.Asks {
		return Node{}, false
	}
	v := p.wish(g, f, j)
	if v == nil {
		return Node{}, false
	}
	ask, here := *v.ask, v.at([]Site{site})
	if site != (Site{}) {
		ask.Profile.Backends, ask.Profile.Regions = []string{site.Backend}, []string{site.Region}
	}
	for i := range v.inOrder() {
		if here(i) && v.usable(i) {
			if !g.BuyFrom.IsZero() && p.Refused != nil && p.Refused(keyFor(&v.offers[i])) {
				continue
			}
			o := taken.less(v.offers[i])
			if needReservation.excludes(&ask.Requirements, &ask.Profile, &o) {
				continue // others take the rest of it
			}
			taken.take(&ask, &o)
			o = ask.narrowed(o)
			o.Rooms = v.offers[i].Rooms
			o.Blocks, o.TotalBlocks = 1, 1
			return Node{Job: g.Jobs[j].Job, Blocks: 1, Offer: o, Ask: ask}, true
		}
	}
	return Node{}, false
}

// wish is what the offers are to a gang's job together with a fleet, nil when they exclude each other. It
// is remembered while one gang is looked at.
func (p *placer) wish(g *Gang, f, j int) *view {
	of := jobOf{g, f, j}
	v, known := p.asked[of]
	if known {
		return v
	}
	for other := range p.asked {
		if other.gang != g {
			clear(p.asked)
		}
		break
	}
	if ask, ok := Combine(p.Fleets[f].Ask, Ask{g.Profile, g.Jobs[j].Requirements}); ok {
		v = p.index().under(&ask)
	}
	p.asked[of] = v
	return v
}

// MayBuy says that a new instance for the gang could be one of a backend now, whatever that offers.
func (s Supply) MayBuy(g *Gang, backend string) bool {
	return s.couldBuy(g, backend, func(f Fleet) bool { return f.Room != 0 })
}

// Concerns says the same but for the room in fleets, which people are told about.
func (s Supply) Concerns(g *Gang, backend string) bool {
	return s.couldBuy(g, backend, func(Fleet) bool { return true })
}

func (s Supply) couldBuy(g *Gang, backend string, has func(Fleet) bool) bool {
	if !g.buys() || g.Beside != (Site{}) && !strings.EqualFold(g.Beside.Backend, backend) {
		return false
	}
	run := Ask{g.Profile, g.Jobs[0].Requirements}
	return run.MayBuy(backend) && slices.ContainsFunc(s.Fleets, func(f Fleet) bool {
		if f.Hosts || !has(f) || !g.mayUse(&f) || !f.Ask.MayBuy(backend) {
			return false
		}
		_, together := Combine(f.Ask, run)
		return together
	})
}

// MayBuy says that an ask does not exclude a backend.
func (a Ask) MayBuy(backend string) bool {
	return a.Profile.Backends == nil || contains(a.Profile.Backends, backend)
}

// Next is the best offer that serves an ask and was not tried yet, in the zones that were
// asked for.
func Next(ask Ask, offers []api.InstanceOffer, tried []string) (api.InstanceOffer, bool) {
	ranked := anyRanked(offers)
	var fit []api.InstanceOffer // of ranked ones: the place of each depends on the others
	for _, o := range offers {
		switch {
		case !ask.state(&o).Usable() || Fits(ask.Requirements, ask.Profile, o) != "":
		case ranked:
			fit = append(fit, o)
		case !slices.Contains(tried, OfferKey(o)):
			return ask.narrowed(o), true
		}
	}
	resort(fit)
	for _, o := range fit {
		if !slices.Contains(tried, OfferKey(o)) {
			return ask.narrowed(o), true
		}
	}
	return api.InstanceOffer{}, false
}

// OfferKey names an offer among those of all backends.
func OfferKey(o api.InstanceOffer) string {
	return fmt.Sprintf("%s/%s/%s/%t", o.Backend, o.Region, o.Instance.Name, o.Instance.Resources.Spot)
}

// take books a plan.
func (p *placer) take(g *Gang, c *plan) Verdict {
	for j, i := range c.hosts {
		if i >= 0 {
			p.free[i] -= c.nodes[j].Blocks
		}
	}
	if p.room[c.fleet] > 0 {
		p.room[c.fleet] -= c.fresh
	}
	p.taken = c.rooms
	return Verdict{Gang: g.ID, Fleet: p.Fleets[c.fleet].ID, Nodes: c.nodes}
}

// possible says that the hosts of a fleet would serve the gang if all of them were free
// and ready.
func (p *placer) possible(g *Gang, f int, shares [][]int) bool {
	for _, site := range p.sites(g, f) {
		hosts := p.match(g, f, site, shares, func(i, n int) bool { return n <= p.Hosts[i].Blocks })
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

// hold keeps everything that a gang could use from those behind it.
func (p *placer) hold(g *Gang) {
	fleets := p.fleetsOf(g)
	shares := p.shares(g)
	for _, f := range fleets {
		if !p.possible(g, f, shares) {
			continue
		}
		p.keep(g, f, shares)
		for j := range g.Jobs {
			if _, can := p.fresh(g, f, g.Beside, j, maps.Clone(p.taken)); can {
				p.room[f] = 0
			}
		}
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
func (p *placer) keep(g *Gang, f int, shares [][]int) {
	for _, i := range p.inFleet[f] {
		for j := range g.Jobs {
			if shares[j][i] > 0 && p.free[i] > 0 {
				p.kept[i] = kept{p.free[i], g.Run}
				p.free[i] = 0
			}
		}
	}
}

// Selected says that a host is among those that were asked for by name.
func Selected(sel []config.InstanceSelector, h *Host) bool {
	if len(sel) == 0 {
		return true
	}
	for _, s := range sel {
		switch {
		case s.Name != nil && *s.Name == h.Name,
			s.Hostname != nil && contains(h.Hostnames, *s.Hostname),
			s.Fleet != nil && s.Instance == h.Num && s.Fleet.Name == h.FleetName:
			return true
		}
	}
	return false
}
