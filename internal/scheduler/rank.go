package scheduler

import (
	"cmp"
	"iter"
	"slices"

	"dstack/internal/api"
)

// floors are prices below which offers of backends with a ranking have no place in a list: one that
// its backend ranks behind others of the list comes where the dearest of these would. That is what a
// merge of lists by price gives, each of which keeps its order (lifecycle 7.4). What cannot be had now
// stands behind the rest, and is no reason for a place in it. Nil is a list without rankings.
type floors map[ranked]float64

// ranked is an offer of a backend with a ranking.
type ranked struct {
	backend api.BackendType
	order   int
}

// floorsOf are those of a list.
func floorsOf(offers iter.Seq[*api.InstanceOffer]) floors {
	var list []*api.InstanceOffer
	for o := range offers {
		if o.Order > 0 {
			list = append(list, o)
		}
	}
	if list == nil {
		return nil
	}
	slices.SortFunc(list, func(a, b *api.InstanceOffer) int {
		return cmp.Or(cmp.Compare(a.Backend, b.Backend), cmp.Compare(a.Order, b.Order))
	})
	type part struct {
		backend api.BackendType
		usable  bool
	}
	f, highest := floors{}, map[part]float64{}
	for _, o := range list {
		p := part{o.Backend, o.Availability.Usable()}
		highest[p] = max(highest[p], o.Price)
		f[ranked{o.Backend, o.Order}] = highest[p]
	}
	return f
}

// anyRanked says that a backend ranks some of the offers.
func anyRanked(offers []api.InstanceOffer) bool {
	for i := range offers {
		if offers[i].Order > 0 {
			return true
		}
	}
	return false
}

// rank is the price by which an offer has its place.
func (f floors) rank(o *api.InstanceOffer) float64 {
	price := o.Price
	if o.Order > 0 {
		price = max(price, f[ranked{o.Backend, o.Order}])
	}
	return price * (1 + o.Penalty)
}

// Sort orders offers: what can be used first, then by price, more for what could not be had
// lately, what exists before what has to be created, then as its backend ranks it, then by name, so that
// equal lists are shown equally. Offers that differ in none of these keep their order.
func Sort(offers []api.InstanceOffer) { floorsOf(pointers(offers)).sort(offers) }

// resort is Sort for some of the offers of a sorted list: the place of a ranked one depends on the
// others that there are.
func resort(offers []api.InstanceOffer) {
	if f := floorsOf(pointers(offers)); f != nil {
		f.sort(offers)
	}
}

// resortBy is resort for what stands for offers.
func resortBy(list []int, at func(n int) *api.InstanceOffer) {
	f := floorsOf(func(yield func(*api.InstanceOffer) bool) {
		for _, n := range list {
			if !yield(at(n)) {
				return
			}
		}
	})
	if f != nil {
		slices.SortStableFunc(list, func(a, b int) int { return f.compare(at(a), at(b)) })
	}
}

func (f floors) sort(offers []api.InstanceOffer) {
	slices.SortStableFunc(offers, func(a, b api.InstanceOffer) int { return f.compare(&a, &b) })
}

func (f floors) compare(a, b *api.InstanceOffer) int {
	if a == b { // one share of hosts that are alike
		return 0
	}
	return cmp.Or(
		falseFirst(!a.Availability.Usable(), !b.Availability.Usable()),
		cmp.Compare(f.rank(a), f.rank(b)),
		falseFirst(isNew(a), isNew(b)),
		cmp.Compare(a.Backend, b.Backend),
		cmp.Compare(a.Order, b.Order),
		cmp.Compare(a.Region, b.Region),
		cmp.Compare(a.Instance.Name, b.Instance.Name),
		falseFirst(!a.Instance.Resources.Spot, !b.Instance.Resources.Spot),
	)
}

func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func pointers(offers []api.InstanceOffer) iter.Seq[*api.InstanceOffer] {
	return func(yield func(*api.InstanceOffer) bool) {
		for i := range offers {
			if !yield(&offers[i]) {
				return
			}
		}
	}
}
