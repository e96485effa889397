package scheduler

import (
	"maps"
	"slices"
	"strings"
	"time"

	"dstack/internal/api"
	"dstack/internal/offer"
)

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
	p.only = mine.offers()
	defer func() { p.only = nil }()
	keys := slices.Collect(maps.Keys(p.only))
	for n, i := range asks {
		try := attempt{i, keys[0]}
		if len(keys) == 1 && p.vain[try] {
			continue
		}
		asking := queue[i]
		asking.BuyFrom = time.Time{}
		p.withOwn(&asking, func() bool {
			if theirs := p.best(&asking); theirs != nil && theirs.fresh > 0 {
				v = p.take(&asking, theirs)
			}
			return v.Nodes != nil
		})
		if v.Nodes != nil {
			clear(p.vain) // it may have left room that was kept for it
			return n, v
		}
		if len(keys) == 1 {
			p.vain[try] = true
		}
	}
	return -1, Verdict{}
}

// An attempt is to have one of the queue ask for an offer. What was in vain stays so while gangs are placed, since
// hosts, room, and reservations only become fewer.
type attempt struct {
	gang  int
	offer offer.Key
}

// spares says that a gang which was refused does not ask for an offer yet: it could not be had lately, and
// fewer were given since than the gang needs, or somebody finds out now whether there are more.
func (p *placer) spares(g *Gang, o *api.InstanceOffer) bool {
	if g.BuyFrom.IsZero() || p.Refused == nil || !p.Refused(KeyOf(o)) {
		return false
	}
	return p.Again == nil || p.tried[KeyOf(o)] || p.Again(KeyOf(o)) < len(g.Jobs)
}

// offers are those of a plan's new instances.
func (c *plan) offers() map[offer.Key]bool {
	keys := map[offer.Key]bool{}
	for i := range c.nodes {
		if n := &c.nodes[i]; n.Host == "" {
			keys[KeyOf(&n.Offer)] = true
		}
	}
	return keys
}

// maxAsks bounds the kinds of gangs that are looked at for that.
const maxAsks = 16
