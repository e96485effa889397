package scheduler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

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
		why.Reasons = p.decide(&g).Reasons
	}
	return why
}

// whyNot is what was counted.
func (t *Tally) whyNot(fleets []Fleet) api.WhyNot {
	list := t.exclusions(fleets)
	return api.WhyNot{Considered: t.all, Fit: t.fit, Unavailable: t.unavailable(), Excluded: append([]api.Exclusion{}, list[:min(len(list), maxExclusions)]...)}
}

// noBackends is why there are no offers at all.
const noBackends = "The project has no backends that could create instances"

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

// later is the verdict on a gang that was not placed although hosts of the fleets would do if they
// were free.
func (p *placer) later(g *Gang, fleets []int, shares []serving) Verdict {
	names := make([]string, len(fleets))
	for n, f := range fleets {
		names[n] = p.Fleets[f].Name
	}
	reasons := []string{waiting(g, "fleet "+quoted(names, "or"), p.keptFor(g, fleets, shares))}
	if !g.BuyFrom.IsZero() {
		reasons = append(reasons, g.refusedLately())
	}
	if out := p.out(fleets); out != "" {
		reasons = append(reasons, out)
	}
	return Verdict{Gang: g.ID, Reasons: reasons, Later: true, Grows: p.mayGrow(g)}
}

// mayGrow says that some fleet that a gang may use has instances of backends: there may be an offer, or room for
// it, before any host is free.
func (p *placer) mayGrow(g *Gang) bool {
	return g.buys() && p.Backends > 0 && slices.ContainsFunc(p.fleetsOf(g), func(f int) bool { return !p.Fleets[f].Hosts })
}

// missing is the verdict on a gang that no hosts which exist would do for. Its words change only when the reason does, not with every instance
// that comes and goes.
func (p *placer) missing(g *Gang, fleets []int, shares []serving) Verdict {
	var names, full, others []string // of fleets: all, those that may not grow any more, and the rest
	fits, grows, short := 0, false, ""
	for _, f := range fleets {
		name := p.Fleets[f].Name
		names = append(names, name)
		for _, i := range p.inFleet[f] {
			if shares[0].of(i) > 0 {
				fits++
			}
		}
		if p.room[f] == 0 && !p.Fleets[f].Hosts {
			full = append(full, name)
		} else {
			others = append(others, name)
			grows = grows || !p.Fleets[f].Hosts
		}
		if p.room[f] > 0 && p.room[f] < len(g.Jobs) && short == "" {
			short = fmt.Sprintf("%d instances are needed, fleet '%s' may have %d more", len(g.Jobs), name, p.room[f])
		}
	}
	where := "fleet " + quoted(names, "or")
	var why string
	switch {
	case len(g.Profile.Instances) > 0:
		why = "Failed to use specified instances"
	case fits > 0:
		return Verdict{Gang: g.ID, Reasons: []string{fmt.Sprintf("%d instances that fit are needed, %s has %d", len(g.Jobs), where, fits)}}
	case full != nil && !grows:
		why = cmp.Or(p.roomKept(g), "Fleet is at capacity")
	case g.Reuse:
		why = "Could not reuse any instance for this job"
	case short != "":
		why = short
	case !g.BuyFrom.IsZero():
		why = g.refusedLately()
	default:
		why = noOffers + "fleet " + quoted(others, "or")
	}
	reasons := []string{why}
	if full != nil && grows && g.refusesNew() == 0 {
		reasons = append(reasons, atCapacity(full))
	}
	if out := p.out(fleets); out != "" {
		reasons = append(reasons, out)
	}
	return Verdict{Gang: g.ID, Reasons: append(reasons, p.facts(g, false)...)}
}

// roomKept tells of a fleet that may grow only for a run ahead, "" when none does that the gang may use.
func (p *placer) roomKept(g *Gang) string {
	for _, f := range p.fleetsOf(g) {
		for _, k := range p.rooms {
			switch {
			case k.fleet != f || k.run == "":
			case g.Patient:
				return fmt.Sprintf("Waits behind run '%s', for which the last room of fleet '%s' is kept", k.run, p.Fleets[f].Name)
			default:
				return fmt.Sprintf("The last room of fleet '%s' is kept for run '%s', which is ahead. With `retry` the run waits for it", p.Fleets[f].Name, k.run)
			}
		}
	}
	return ""
}

// refusedLately says when new instances are asked for again.
func (g *Gang) refusedLately() string {
	return "No provider gave the instances that were last requested; the next request is at " + g.BuyFrom.UTC().Format("15:04:05") + " UTC"
}

// atCapacity tells of some fleets that may not grow, where others may.
func atCapacity(names []string) string {
	if len(names) == 1 {
		return "Fleet '" + names[0] + "' is at capacity"
	}
	return "Fleets " + quoted(names, "and") + " are at capacity"
}

// out names the fleets some of whose instances cannot take jobs now, "" for none.
func (p *placer) out(fleets []int) string {
	var names []string
	for _, f := range fleets {
		if slices.ContainsFunc(p.inFleet[f], func(i int) bool { return p.Hosts[i].Out }) {
			names = append(names, p.Fleets[f].Name)
		}
	}
	if names == nil {
		return ""
	}
	return fmt.Sprintf("Some instances of fleet %s cannot take jobs: they do not answer, or their GPUs have failed", quoted(names, "and"))
}

// keptFor is the run ahead for which hosts are kept that would do now, "" when there are none.
func (p *placer) keptFor(g *Gang, fleets []int, shares []serving) string {
	for _, f := range fleets {
		for _, i := range p.inFleet[f] {
			if n := shares[0].of(i); n > 0 && p.kept[i].blocks >= n {
				return p.kept[i].run
			}
		}
	}
	return ""
}

// waiting tells of a gang that hosts would do for which are in use, or kept for a run ahead.
func waiting(g *Gang, where, ahead string) string {
	switch {
	case ahead != "" && !g.Patient:
		return fmt.Sprintf("The free instances of %s that fit are kept for run '%s', which is ahead. With `retry` the run waits for them", where, ahead)
	case ahead != "":
		return fmt.Sprintf("Waits behind run '%s', for which the free instances of %s are kept", ahead, where)
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
	if anyway || slices.ContainsFunc(growing, func(f grower) bool { return f.missed == 0 && f.settings&(1<<fleetIsFull) == 0 }) {
		for _, s := range p.Silent {
			if anyway && (Ask{Profile: g.Profile}).MayBuy(s.Backend) || p.MayBuy(g, s.Backend) {
				list = append(list, s.Text)
			}
		}
	}
	if g.Cluster && (anyway || len(growing) > 0) && len(p.Offers) > 0 && !slices.ContainsFunc(p.Offers, func(o api.InstanceOffer) bool { return o.Multinode }) {
		list = append(list, "None of the project's backends connects its instances to clusters")
	}
	if about := p.aboutReservation(g); about != "" {
		list = append(list, about)
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
