package scheduler

import (
	"fmt"
	"slices"
	"strings"
	"unique"

	"dstack/internal/api"
	"dstack/internal/config"
)

// NoFleet is what people see when no fleet could ever serve a run.
const NoFleet = noFleetFits + ". Possible reasons: https://dstack.ai/docs/guides/troubleshooting/#no-fleets"

const noFleetFits = "No matching fleet found"

// maxExclusions bounds what is told of many fleets.
const maxExclusions = 20

// Few is the number of offers up to which plans say why there are no more.
const Few = 2

// WhyNot says what keeps instances and offers from the first job of a gang; anyway has backends
// count without a fleet. Without it, Reasons also say why the gang cannot be placed now.
func WhyNot(g Gang, s Supply, anyway bool) api.WhyNot {
	p := newPlacer(s)
	why := p.tally(&g, anyway).whyNot(s.Fleets)
	if anyway {
		why.Reasons = p.facts(&g, anyway)
	} else {
		why.Reasons = p.place(&g).Reasons
	}
	return why
}

// whyNot is what was counted.
func (t *Tally) whyNot(fleets []Fleet) api.WhyNot {
	list := t.exclusions(fleets)
	return api.WhyNot{Considered: t.all, Fit: t.fit, Unavailable: t.unavailable(), Excluded: append([]api.Exclusion{}, list[:min(len(list), maxExclusions)]...)}
}

// Nodes are the offers of which a fleet could make nodes that are divided into so many blocks,
// or with auto into as many as [Divide] says, and why there are no more.
func Nodes(ask Ask, blocks int, auto bool, s Supply) ([]api.InstanceOffer, api.WhyNot) {
	var t Tally
	var list []api.InstanceOffer
	for _, o := range s.Offers {
		missed := ask.missed(&o)
		n, ok := Divide(blocks, auto, o.Instance.Resources.CPUs, len(o.Instance.Resources.Gpus))
		if !ok {
			missed |= 1 << notDivisible
		}
		if missed == 0 {
			o.TotalBlocks = n
			list = append(list, o)
		}
		t.add(o.Price, way{settings: missed, state: o.Availability})
	}
	why := t.whyNot([]Fleet{{}}) // its own settings need no name
	if s.Backends == 0 {
		why.Reasons = []string{noBackends}
	}
	return list, why
}

// noBackends is why there are no offers at all.
const noBackends = "The project has no backends that could create instances"

// tally asks of everything that there is what stands between it and a gang's first job.
func (p *placer) tally(g *Gang, anyway bool) *Tally {
	t := &Tally{}
	var ways []way
	alike := map[unique.Handle[string]][]Misses{}
	for f := range p.Fleets {
		for _, i := range p.inFleet[f] {
			h := p.Hosts[i]
			missed, known := alike[h.Key]
			if !known || h.Key == (unique.Handle[string]{}) {
				missed = shareMisses(g, h)
				alike[h.Key] = missed
			}
			if ways = p.hostWays(ways[:0], g, f, i, missed); len(ways) > 0 {
				t.add(h.Offer.Price, ways...)
			}
		}
	}
	run := Ask{g.Profile, g.Jobs[0].Requirements}
	growing := p.growing(g, run, anyway)
	for i := range p.Offers {
		o := &p.Offers[i]
		missed := run.missed(o)
		ways = ways[:0]
		for _, f := range growing {
			ways = append(ways, f.way(o, missed))
		}
		if anyway {
			ways = append(ways, way{fleet: noFleet, run: missed | g.refusesNew() | g.refusesFleets(g.Fleets == nil), state: o.Availability})
		}
		if len(ways) > 0 {
			t.add(o.Price, ways...)
		}
	}
	return t
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
	if !Selected(g.Profile.Instances, h) {
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
		if !zoned(g.Profile, h.Zone) {
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
	zones     []string // that both ask for; nil: any
	run       *Ask     // the run's, where it reads otherwise beside the fleet's
	missed    Misses   // of the run's requirements, by every offer
	settings  Misses   // the same of the fleet's
	conflicts Misses
	sites     []Site // where its cluster may be; nil: anywhere
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
		one := grower{fleet: i, id: f.ID, missed: g.refusesNew() | g.refusesFleets(named)}
		one.ask, _ = f.Ask.beside(run)
		if other, changed := run.beside(f.Ask); changed {
			one.run = &other
		}
		both, conflicts := combine(f.Ask, run)
		one.zones, one.conflicts = both.Profile.AvailabilityZones, conflicts
		if p.room[i] == 0 {
			one.settings |= 1 << fleetIsFull
		}
		if g.Cluster && !f.Cluster {
			one.settings |= 1 << needMultinode
		}
		if g.Beside != (Site{}) || g.Cluster && len(p.inFleet[i]) > 0 {
			one.sites = p.sites(g, i)
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
	w := way{fleet: f.fleet, run: run | f.missed, settings: f.ask.missed(o) | f.settings, state: o.Availability}
	if f.sites != nil && !slices.Contains(f.sites, Site{f.id, string(o.Backend), o.Region}) {
		w.settings |= 1 << otherPlace
	}
	w.both = f.conflicts
	if f.zones != nil && !inZones(f.zones, o) {
		w.both |= 1 << needZone
	}
	w.both &^= w.run | w.settings
	return w
}

// noFleet is the verdict on a gang that no fleet could ever serve.
func (p *placer) noFleet(g *Gang) Verdict {
	why := noFleetFits
	if g.Fleets != nil && !slices.ContainsFunc(p.Fleets, func(f Fleet) bool { return g.uses(&f) }) {
		why = "Failed to use specified fleets"
	}
	return Verdict{Gang: g.ID, Reasons: append([]string{why}, p.facts(g, false)...), NoFleet: true}
}

const (
	noOffers = "No offers matching the run requirements in "
	help     = ".\nSee https://dstack.ai/docs/guides/troubleshooting/#provisioning-fails"
)

// words are a verdict's reasons in one text, with what would help most.
func (p *placer) words(g *Gang, v Verdict) string {
	text := strings.Join(v.Reasons, ". ")
	switch {
	case v.NoFleet:
		return strings.Replace(text, noFleetFits, NoFleet, 1)
	case v.Later:
		return text
	}
	t := p.tally(g, false)
	if best := t.exclusions(p.Fleets); t.fit == 0 && len(best) > 0 && best[0].Alone > 0 {
		text += ". Without " + Setting(best[0]) + " there would be some"
	}
	if strings.HasPrefix(text, noOffers) {
		text += help
	}
	return text
}

// missing is the verdict on a gang that was not placed; later says that hosts which exist would
// do if they were free. Its words change only when the reason does, not with every instance
// that comes and goes.
func (p *placer) missing(g *Gang, fleets []int, shares [][]int, later bool) Verdict {
	names := make([]string, len(fleets))
	fits, full, short := 0, false, ""
	for n, f := range fleets {
		names[n] = p.Fleets[f].Name
		for _, i := range p.inFleet[f] {
			if shares[0][i] > 0 {
				fits++
			}
		}
		full = full || p.room[f] == 0 && !p.Fleets[f].Hosts
		if p.room[f] > 0 && p.room[f] < len(g.Jobs) && short == "" {
			short = fmt.Sprintf("%d instances are needed, fleet '%s' may have %d more", len(g.Jobs), p.Fleets[f].Name, p.room[f])
		}
	}
	where := "fleet " + quoted(names, "or")
	if later {
		return Verdict{Gang: g.ID, Reasons: []string{waiting(g, where)}, Later: true}
	}
	var why string
	switch {
	case len(g.Profile.Instances) > 0:
		why = "Failed to use specified instances"
	case fits > 0:
		return Verdict{Gang: g.ID, Reasons: []string{fmt.Sprintf("%d instances that fit are needed, %s has %d", len(g.Jobs), where, fits)}}
	case full:
		why = "Fleet is at capacity"
	case g.Reuse:
		why = "Could not reuse any instance for this job"
	case short != "":
		why = short
	default:
		why = noOffers + where
	}
	return Verdict{Gang: g.ID, Reasons: append([]string{why}, p.facts(g, false)...)}
}

// waiting tells of a gang that hosts would do for which are in use.
func waiting(g *Gang, where string) string {
	switch {
	case !g.Patient:
		return fmt.Sprintf("The instances of %s that fit are in use. With `retry` the run waits for them", where)
	case len(g.Jobs) > 1:
		return fmt.Sprintf("Waits until %d instances of %s are free at the same time", len(g.Jobs), where)
	}
	return fmt.Sprintf("Waits until an instance of %s is free", where)
}

// Setting names what excludes offers: a requirement of a run, or a setting of a fleet.
func Setting(e api.Exclusion) string {
	if e.Fleet == "" {
		return "`" + e.Requirement + "`"
	}
	return fmt.Sprintf("`%s` of fleet '%s'", e.Requirement, e.Fleet)
}

// facts are what no single offer is to blame for.
func (p *placer) facts(g *Gang, anyway bool) []string {
	var list []string
	if unknown := p.unknownFleets(g); unknown != nil {
		list = append(list, fmt.Sprintf("There is no fleet %s%s", quoted(unknown, "or"), p.others()))
	}
	if g.Cluster && !anyway && len(p.Fleets) > 0 && !slices.ContainsFunc(p.Fleets, func(f Fleet) bool { return f.Cluster && g.uses(&f) }) {
		list = append(list, "A task with several nodes needs a fleet with `placement: cluster`")
	}
	growing := p.growing(g, Ask{g.Profile, g.Jobs[0].Requirements}, anyway)
	if p.Backends == 0 && (anyway || len(growing) > 0) {
		list = append(list, noBackends)
	}
	if g.Cluster && (anyway || len(growing) > 0) && len(p.Offers) > 0 && !slices.ContainsFunc(p.Offers, func(o api.InstanceOffer) bool { return o.Multinode }) {
		list = append(list, "None of the project's backends connects its instances to clusters")
	}
	var conflicts []Misses
	between := map[Misses][]string{} // fleets by how they and the run exclude each other
	for _, f := range growing {
		if f.conflicts == 0 || f.missed != 0 {
			continue
		}
		if between[f.conflicts] == nil {
			conflicts = append(conflicts, f.conflicts)
		}
		between[f.conflicts] = append(between[f.conflicts], p.Fleets[f.fleet].Name)
	}
	for _, c := range conflicts[:min(len(conflicts), maxNames)] {
		list = append(list, fmt.Sprintf("The run and fleet %s exclude each other: `%s`", quoted(between[c], "or"), strings.Join(c.Words(), "`, `")))
	}
	return list
}

// Is says that a reference names the fleet.
func (f Fleet) Is(ref config.EntityRef) bool {
	return f.Name == ref.String() || ref.Project != nil && *ref.Project == f.Project && f.Name == ref.Name
}

// unknownFleets are the references of a gang that no fleet answers to.
func (p *placer) unknownFleets(g *Gang) []string {
	var list []string
	for _, ref := range g.Profile.Fleets {
		if !slices.ContainsFunc(p.Fleets, func(f Fleet) bool { return f.Is(ref) }) {
			list = append(list, ref.String())
		}
	}
	return list
}

// others says which fleets there are.
func (p *placer) others() string {
	if len(p.Fleets) == 0 {
		return "; the project has none"
	}
	names := make([]string, len(p.Fleets))
	for i, f := range p.Fleets {
		names[i] = f.Name
	}
	return "; the project has " + quoted(names, "and")
}

// maxNames is how many fleets are named.
const maxNames = 5

// quoted are names in quotation marks, the last after a word: 'a', 'b' or 'c'.
func quoted(names []string, word string) string {
	last := len(names) - 1
	switch {
	case last == 0:
		return "'" + names[0] + "'"
	case last >= maxNames:
		return fmt.Sprintf("'%s' %s %d others", strings.Join(names[:maxNames], "', '"), word, len(names)-maxNames)
	}
	return fmt.Sprintf("'%s' %s '%s'", strings.Join(names[:last], "', '"), word, names[last])
}
