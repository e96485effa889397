package scheduler

import (
	"cmp"
	"maps"
	"math/bits"
	"slices"
	"strings"

	"dstack/internal/api"
	"dstack/internal/config"
)

// Misses is the set of requirements that exclude an offer; 0 is an offer that fits. What
// excludes an offer by parts of it (its region, its GPUs) is the union of what the parts miss.
type Misses uint32

// Missed is all that excludes an offer, by the rules of [Fits].
func Missed(req *api.Requirements, p *config.ProfileParams, o *api.InstanceOffer) Misses {
	return missedOf(allRules, req, p, o)
}

// allRules are those of [Fits].
const allRules Misses = 1<<len(requirementWords) - 1

// missedOf is Missed by some of the rules.
func missedOf(rules Misses, req *api.Requirements, p *config.ProfileParams, o *api.InstanceOffer) (m Misses) {
	for ; rules != 0; rules &= rules - 1 {
		if r := rules.first(); r.excludes(req, p, o) {
			m |= 1 << r
		}
	}
	return m
}

// What stands in the way beside the requirements of an offer: what a run or a fleet says of
// instances and of each other.
const (
	mayReuseOnly   requirement = iota + requirement(len(requirementWords)) // the run takes no new instances
	otherInstance                                                          // the run names others
	otherFleet                                                             // the run names others
	fleetIsFull                                                            // it has as many instances as it may
	otherPlace                                                             // the fleet's cluster is elsewhere
	notDivisible                                                           // into the fleet's blocks
	backendOptions                                                         // of run and fleet differ
	obstacles      = iota + len(requirementWords)
)

// unhelpful are those that nobody can do without: machines without any GPU are no answer to
// who asks for GPUs, and a cluster cannot move.
const unhelpful Misses = 1<<needGPU | 1<<otherPlace

// word is an obstacle as a path in the YAML of runs, or with a fleet in that of fleets.
func (r requirement) word(ofFleet bool) string {
	switch {
	case r == mayReuseOnly:
		return "creation_policy"
	case r == otherInstance:
		return "instances"
	case r == otherFleet:
		return "fleets"
	case r == fleetIsFull:
		return "nodes"
	case r == otherPlace, r == needMultinode && ofFleet:
		return "placement"
	case r == notDivisible:
		return "blocks"
	case r == backendOptions:
		return "backend_options"
	}
	return requirementWords[r]
}

// Words are the requirements as paths in the YAML of runs, nil for none. An offer without any
// GPU where one is needed misses just that ("gpu").
func (m Misses) Words() []string {
	var list []string
	for ; m != 0; m &= m - 1 { // without its lowest bit
		list = append(list, m.first().word(false))
	}
	return list
}

func (m Misses) first() requirement { return requirement(bits.TrailingZeros32(uint32(m))) }

// single is m where it has just one requirement, and one that can be done without.
func (m Misses) single() Misses {
	if m&(m-1) != 0 || m&unhelpful != 0 {
		return 0
	}
	return m
}

// A way is one of those in which something can be had: through a fleet, as a share of a
// machine. It is open when nothing stands in it.
type way struct {
	fleet    int    // number in the supply, noFleet for what needs none
	run      Misses // of the run's requirements
	settings Misses // of the fleet's
	both     Misses // what only the two together exclude
	state    api.InstanceAvailability
}

const noFleet = -1

func (w way) open() bool { return w.run|w.settings|w.both == 0 }

// without are the requirement of the run and the setting of the fleet of which each alone
// would open the way, were it left out; 0 where there is none.
func (w way) without() (requirement, setting Misses) {
	if w.settings == 0 {
		requirement = (w.run | w.both).single()
	}
	if w.run == 0 {
		setting = (w.settings | w.both).single()
	}
	return requirement, setting
}

// A Tally counts what excludes instances and offers, to say why few or none fit.
type Tally struct {
	all, fit int
	away     map[api.InstanceAvailability]int // those that fit and cannot be had now
	by       [][obstacles]api.Exclusion       // the run's requirements, then the settings of each fleet
}

// Add counts an offer and what it misses.
func (t *Tally) Add(m Misses, price float64) {
	t.add(1, price, way{fleet: noFleet, run: m, state: api.Available})
}

// add counts n things that can be had in the same ways, from a price on; ways through one fleet
// follow each other.
func (t *Tally) add(n int, price float64, ways ...way) {
	t.all += n
	away := api.InstanceAvailability("")
	for _, w := range ways {
		if w.open() && w.state.Usable() {
			t.fit += n
			return
		}
		if w.open() {
			away = w.state
		}
	}
	if away != "" {
		if t.away == nil {
			t.away = map[api.InstanceAvailability]int{}
		}
		t.away[away] += n
	}
	var run blame
	for len(ways) > 0 {
		fleet := ways[0].fleet
		var settings blame
		for len(ways) > 0 && ways[0].fleet == fleet {
			requirement, setting := ways[0].without()
			run.join(ways[0].run|ways[0].both, requirement, ways[0].state)
			if ways[0].run&(1<<otherFleet) == 0 { // what other fleets say than those that the run names is of no use
				settings.join(ways[0].settings|ways[0].both, setting, ways[0].state)
			}
			ways = ways[1:]
		}
		if fleet != noFleet {
			t.count(n, fleet, settings, price, away != "")
		}
	}
	t.count(n, noFleet, run, price, away != "")
}

// blame is what excludes one thing, over the ways in which it can be had.
type blame struct {
	by    Misses
	alone Misses // each of which alone would do, were it left out
	later Misses // the same of what cannot be had now
}

func (e *blame) join(by, alone Misses, state api.InstanceAvailability) {
	e.by |= by
	if state.Usable() {
		e.alone |= alone
	} else {
		e.later |= alone
	}
}

// count adds what excludes n things; fits says that they do fit and are only away.
func (t *Tally) count(n, fleet int, e blame, price float64, fits bool) {
	for len(t.by) <= fleet+1 {
		t.by = append(t.by, [obstacles]api.Exclusion{})
	}
	to := &t.by[fleet+1]
	for m := e.alone; m != 0; m &= m - 1 {
		x := &to[m.first()]
		if x.Alone == 0 || price < *x.From {
			x.From = new(price)
		}
		x.Alone += n
	}
	if fits {
		return
	}
	for m := e.by; m != 0; m &= m - 1 {
		to[m.first()].Excludes += n
	}
	for m := e.later &^ e.alone; m != 0; m &= m - 1 {
		to[m.first()].Unavailable += n
	}
}

// Offers are how many there are, and how many of them fit and can be had now.
func (t *Tally) Offers() (all, fit int) { return t.all, t.fit }

// unavailable are those that fit and cannot be had now, most first.
func (t *Tally) unavailable() []api.Unavailable {
	var list []api.Unavailable
	for _, a := range slices.Sorted(maps.Keys(t.away)) {
		list = append(list, api.Unavailable{Availability: a, Count: t.away[a]})
	}
	slices.SortStableFunc(list, func(a, b api.Unavailable) int { return cmp.Compare(b.Count, a.Count) })
	return list
}

// lowest is how much of a penalty is worth a word.
const lowest = 0.01

// Lowered are the offers that have a later place than their price gives them.
func Lowered(offers []api.InstanceOffer) []api.LoweredOffer {
	var list []api.LoweredOffer
	for _, o := range offers {
		if o.Penalty >= lowest {
			list = append(list, api.LoweredOffer{Backend: o.Backend, Region: o.Region, Instance: o.Instance.Name, Spot: o.Instance.Resources.Spot, Penalty: o.Penalty})
		}
	}
	return list
}

// Exclusions are the requirements that exclude anything, first the one without which most
// would fit, what one might like otherwise before what the work needs, then by how much each
// excludes.
func (t *Tally) Exclusions() []api.Exclusion { return t.exclusions(nil) }

// exclusions are also the settings of fleets.
func (t *Tally) exclusions(fleets []Fleet) []api.Exclusion {
	var list []api.Exclusion
	for i, of := range t.by {
		for r, e := range of {
			if e.Excludes+e.Alone == 0 {
				continue
			}
			e.Requirement = requirement(r).word(i > 0)
			if i > 0 {
				e.Fleet = fleets[i-1].Name
			}
			list = append(list, e)
		}
	}
	slices.SortStableFunc(list, func(a, b api.Exclusion) int {
		return cmp.Or(cmp.Compare(b.Alone, a.Alone), falseFirst(a.Alone > 0 && needed(a), b.Alone > 0 && needed(b)), cmp.Compare(b.Excludes, a.Excludes))
	})
	return list
}

// needed says that a requirement is of the resources that the work needs.
func needed(e api.Exclusion) bool {
	thing, _, _ := strings.Cut(e.Requirement, ".")
	return slices.Contains([]string{"cpu", "memory", "disk", "gpu"}, thing)
}
