package scheduler

import (
	"slices"

	"dstack/internal/api"
)

// Found are offers in an order. Those of backends are made when they are looked at: a plan may
// find a hundred thousand, of which it shows fifty.
type Found struct {
	shares []*api.InstanceOffer // of hosts, one for those that are alike
	index  *Index
	order  []int // offers of the index; below 0, ^n is the share n
	// as is an offer of the index as it is shown, nil for one of a whole instance.
	as func(i int) api.InstanceOffer
}

// These are offers that exist already.
func These(offers []*api.InstanceOffer) Found {
	f := Found{shares: offers, order: make([]int, len(offers))}
	for n := range offers {
		f.order[n] = ^n
	}
	return f
}

// Len is how many there are.
func (f Found) Len() int { return len(f.order) }

// First are the first ones, at most n.
func (f Found) First(n int) []api.InstanceOffer {
	list := make([]api.InstanceOffer, 0, max(0, min(n, len(f.order))))
	for _, at := range f.order[:cap(list)] {
		if at < 0 {
			list = append(list, *f.shares[^at])
			continue
		}
		if f.as != nil {
			list = append(list, f.as(at))
			continue
		}
		o := f.index.offers[at]
		o.Blocks, o.TotalBlocks = 1, 1
		list = append(list, o)
	}
	return list
}

// Reversed has them in the opposite order.
func (f Found) Reversed() Found {
	f.order = slices.Clone(f.order)
	slices.Reverse(f.order)
	return f
}

// MaxPrice is the highest price, nil without any offers.
func (f Found) MaxPrice() *float64 {
	if len(f.order) == 0 {
		return nil
	}
	most := 0.0
	for n, at := range f.order {
		price := 0.0
		if at < 0 {
			price = f.shares[^at].Price
		} else {
			price = f.index.rows[at].price
		}
		if n == 0 || price > most {
			most = price
		}
	}
	return &most
}

// Usable is how many of them can be had now, counted up to a limit.
func (f Found) Usable(limit int) (n int) {
	for _, at := range f.order {
		if n == limit {
			break
		}
		if f.usable(at) {
			n++
		}
	}
	return n
}

func (f Found) usable(at int) bool {
	if at < 0 {
		return f.shares[^at].Availability.Usable()
	}
	return f.index.rows[at].usable
}

// at is one of the offers, to be looked at.
func (f Found) at(at int) *api.InstanceOffer {
	if at < 0 {
		return f.shares[^at]
	}
	return &f.index.offers[at]
}

// Everywhere are the offers for a gang's first job of all fleets that it may use and, when it names
// none, of backends without a fleet, in the order of [Sort].
func Everywhere(g Gang, s Supply, choices []Choice) Found {
	f := Found{index: s.indexed().Index}
	for _, c := range choices {
		f.shares = append(f.shares, c.Existing().shares...)
	}
	slices.SortStableFunc(f.shares, floorsOf(slices.Values(f.shares)).compare) // as [Sort] does
	f.order = These(f.shares).order
	if g.Fleets != nil {
		for _, c := range choices {
			f.order = f.merge(f.order, f.fresh(c.fresh))
		}
	} else if run := (Ask{g.Profile, g.Jobs[0].Requirements}); g.refusesNew() == 0 {
		f.order = f.merge(f.order, f.fresh(&fitting{view: f.index.under(&run), here: anywhere}))
	}
	if f.index.ranked {
		resortBy(f.order, f.at)
	}
	return f
}

// fresh are the numbers of offers for new instances, in order. In a reservation they are not what they
// are to others.
func (f *Found) fresh(n *fitting) []int {
	fit := n.all()
	if n == nil || n.ask.Requirements.Reservation == nil {
		return fit
	}
	var made []api.InstanceOffer
	for _, i := range fit {
		o := n.ask.narrowed(n.offers[i])
		o.Blocks, o.TotalBlocks = 1, 1
		made = append(made, o)
	}
	Sort(made)
	var order []int
	for i := range made {
		order = append(order, ^len(f.shares))
		f.shares = append(f.shares, &made[i])
	}
	return order
}

// merge are two lists that are in order, in order.
func (f Found) merge(a, b []int) []int {
	if len(a) == 0 {
		return b
	}
	list := make([]int, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if floors(nil).compare(f.at(b[0]), f.at(a[0])) < 0 {
			list, b = append(list, b[0]), b[1:]
		} else {
			list, a = append(list, a[0]), a[1:]
		}
	}
	return append(append(list, a...), b...)
}
