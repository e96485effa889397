package scheduler

import (
	"fmt"
	"slices"
	"strings"

	"dstack/internal/api"
)

// buys says that the gang may have new instances.
func (g *Gang) buys() bool { return g.refusesNew() == 0 }

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
	if site == (Site{}) {
		site = p.Fleets[f].At
	}
	ask, here := *v.ask, v.at([]Site{site})
	if site != (Site{}) {
		ask.Profile.Backends, ask.Profile.Regions = []string{site.Backend}, []string{site.Region}
	}
	for i := range v.inOrder() {
		if here(i) && v.usable(i) {
			if p.spares(g, &v.offers[i]) || p.only != nil && !p.only[KeyOf(&v.offers[i])] {
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
