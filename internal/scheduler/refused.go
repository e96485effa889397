package scheduler

import (
	"slices"
	"strings"
	"time"

	"dstack/internal/api"
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
	for n, i := range asks {
		asking := queue[i]
		asking.BuyFrom = time.Time{}
		p.withOwn(&asking, func() {
			if theirs := p.best(&asking); theirs != nil && theirs.meets(mine) {
				v = p.take(&asking, theirs)
			}
		})
		if v.Nodes != nil {
			return n, v
		}
	}
	return -1, Verdict{}
}

// spares says that a gang which was refused does not ask for an offer yet: it could not be had lately, and
// fewer were given since than the gang needs, or somebody finds out now whether there are more.
func (p *placer) spares(g *Gang, o *api.InstanceOffer) bool {
	if g.BuyFrom.IsZero() || p.Refused == nil || !p.Refused(KeyOf(o)) {
		return false
	}
	return p.Again == nil || p.tried[KeyOf(o)] || p.Again(KeyOf(o)) < len(g.Jobs)
}

// meets says that two plans have new instances of one offer.
func (a *plan) meets(b *plan) bool {
	return slices.ContainsFunc(a.nodes, func(x Node) bool {
		return x.Host == "" && slices.ContainsFunc(b.nodes, func(y Node) bool { return y.Host == "" && KeyOf(&x.Offer) == KeyOf(&y.Offer) })
	})
}

// maxAsks bounds the kinds of gangs that are looked at for that.
const maxAsks = 16
