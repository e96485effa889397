package scheduler

import (
	"slices"

	"dstack/internal/api"
	"dstack/internal/offer"
)

// Amended are the index's offers in the order of [Sort], with their index, when some cost something
// else or have another penalty than there: those of the keys, as of says. The rest is copied as it is,
// which takes a tenth of the time that a new list takes.
func (x *Index) Amended(keys []offer.Key, of func(k offer.Key, price float64) (really, penalty float64)) ([]api.InstanceOffer, *Index) {
	touched := x.of(keys)
	amend := func(o *api.InstanceOffer) { o.Price, o.Penalty = of(KeyOf(o), o.Price) }
	if x.ranked { // the place of each depends on the others
		list := slices.Clone(x.offers)
		for _, i := range touched {
			amend(&list[i])
		}
		Sort(list)
		return list, NewIndex(list)
	}
	changed := make([]api.InstanceOffer, len(touched))
	for n, i := range touched {
		changed[n] = x.offers[i]
		amend(&changed[n])
	}
	order := make([]int, len(touched)) // of changed
	for n := range order {
		order[n] = n
	}
	slices.SortStableFunc(order, func(a, b int) int { return floors(nil).compare(&changed[a], &changed[b]) })

	list, rows := make([]api.InstanceOffer, 0, len(x.offers)), make([]row, 0, len(x.rows))
	copied := 0 // of the index, but for those touched
	upTo := func(end int) {
		for _, i := range touched[lowerBound(touched, copied):] {
			if i >= end {
				break
			}
			list, rows = append(list, x.offers[copied:i]...), append(rows, x.rows[copied:i]...)
			copied = i + 1
		}
		if copied < end {
			list, rows = append(list, x.offers[copied:end]...), append(rows, x.rows[copied:end]...)
			copied = end
		}
	}
	for _, n := range order {
		o := &changed[n]
		upTo(x.place(o, touched, copied))
		r := x.rows[touched[n]]
		r.price = o.Price
		list, rows = append(list, *o), append(rows, r)
	}
	upTo(len(x.offers))
	made := &Index{offers: list, rows: rows, kinds: make([]int, len(x.kinds)), places: make([]int, len(x.places)), states: x.states}
	for i := len(rows) - 1; i >= 0; i-- {
		made.kinds[rows[i].kind], made.places[rows[i].place] = i, i
	}
	return list, made
}

// KeyOf names an offer for what is learnt of it.
func KeyOf(o *api.InstanceOffer) offer.Key {
	return offer.Key{Backend: string(o.Backend), Region: o.Region, Instance: o.Instance.Name, Spot: o.Instance.Resources.Spot}
}

// of are the offers of some keys, in order.
func (x *Index) of(keys []offer.Key) []int {
	wanted, kinds, places := map[offer.Key]bool{}, map[offer.Key]bool{}, map[offer.Key]bool{}
	kindOf := func(k offer.Key) offer.Key { k.Region = ""; return k }
	placeOf := func(k offer.Key) offer.Key { return offer.Key{Backend: k.Backend, Region: k.Region} }
	for _, k := range keys {
		wanted[k], kinds[kindOf(k)], places[placeOf(k)] = true, true, true
	}
	ofKind, ofPlace := make([]bool, len(x.kinds)), make([]bool, len(x.places))
	for n, i := range x.kinds {
		ofKind[n] = kinds[kindOf(KeyOf(&x.offers[i]))]
	}
	for n, i := range x.places {
		ofPlace[n] = places[placeOf(KeyOf(&x.offers[i]))]
	}
	var list []int
	for i := range x.rows {
		if r := &x.rows[i]; ofKind[r.kind] && ofPlace[r.place] && wanted[KeyOf(&x.offers[i])] {
			list = append(list, i)
		}
	}
	return list
}

// place is before which of the index's offers an amended one comes, among those from begin on that are
// not touched.
func (x *Index) place(o *api.InstanceOffer, touched []int, begin int) int {
	end := len(x.offers)
	for begin < end {
		mid := (begin + end) / 2
		i := mid // the next that is not touched
		for n := lowerBound(touched, i); n < len(touched) && touched[n] == i; n++ {
			i++
		}
		if i >= end {
			end = mid
			continue
		}
		if floors(nil).compare(&x.offers[i], o) < 0 {
			begin = i + 1
		} else {
			end = mid
		}
	}
	return begin
}

// lowerBound is where a number is in a list, or would be.
func lowerBound(list []int, n int) int {
	at, _ := slices.BinarySearch(list, n)
	return at
}
