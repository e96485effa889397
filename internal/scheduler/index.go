package scheduler

import (
	"encoding/binary"
	"fmt"
	"iter"
	"slices"
	"strings"

	"dstack/internal/api"
)

// An Index is a list of offers with what they have in common found once: a question of 100,000
// offers asks the rules about the few thousand kinds and places that there are, and looks the
// answers up. It is safe for concurrent use; nobody changes the list.
type Index struct {
	offers []api.InstanceOffer
	rows   []row
	kinds  []int // one offer of each
	places []int
	states []api.InstanceAvailability
	ranked bool // by a backend, some of them
}

// row is what is looked at of an offer.
type row struct {
	price       float64
	kind, place uint32
	state       uint8
	usable      bool
}

// kind is all of an offer that rules look at, but for its place and its price.
type kind struct {
	backend, name           string
	cpus, memoryMiB, disk   int
	arch                    string
	gpus                    int
	gpu                     api.Gpu
	spot                    bool
	fresh, reserves, meshed bool
	rooms                   string
}

// place is where an offer is. Rules about zones differ for what exists.
type place struct {
	backend, region, zones string
	fresh                  bool
}

// NewIndex is the index of offers in the order of [Sort].
func NewIndex(offers []api.InstanceOffer) *Index {
	x := &Index{offers: offers, rows: make([]row, len(offers))}
	kinds, places, states := map[kind]uint32{}, map[place]uint32{}, map[api.InstanceAvailability]uint8{}
	for i := range offers {
		o := &offers[i]
		r := row{price: o.Price, usable: o.Availability.Usable()}
		r.kind = number(kinds, kindOf(o), &x.kinds, i)
		r.place = number(places, place{string(o.Backend), o.Region, strings.Join(o.AvailabilityZones, "\x00"), isNew(o)}, &x.places, i)
		r.state = number(states, o.Availability, &x.states, o.Availability)
		x.rows[i] = r
		x.ranked = x.ranked || o.Order > 0
	}
	return x
}

// number is that of a value among those seen before, to which it adds what stands for the value.
func number[K comparable, N uint8 | uint32, V any](seen map[K]N, k K, list *[]V, v V) N {
	n, known := seen[k]
	if !known {
		n = N(len(seen))
		seen[k] = n
		*list = append(*list, v)
	}
	return n
}

func kindOf(o *api.InstanceOffer) kind {
	res := &o.Instance.Resources
	k := kind{
		backend: string(o.Backend), name: o.Instance.Name, cpus: res.CPUs, memoryMiB: res.MemoryMiB, disk: res.Disk.SizeMiB,
		arch: arch(res), gpus: len(res.Gpus), spot: res.Spot, fresh: isNew(o), reserves: o.Reserves, meshed: o.Multinode,
	}
	if k.gpus > 0 {
		k.gpu = res.Gpus[0] // stands for all, as for the rules
	}
	if len(o.Rooms) > 0 {
		k.rooms = fmt.Sprint(o.Rooms)
	}
	return k
}

// What rules look at: the place of an offer, its price, or its kind.
const (
	placeRules Misses = 1<<needRegion | 1<<needZone
	priceRules Misses = 1 << needPrice
	kindRules  Misses = allRules &^ (placeRules | priceRules)
)

// view is an index under an ask. It asks the rules when the answer is needed first, and is for one
// goroutine.
type view struct {
	*Index
	ask             *Ask
	byKind, byPlace []Misses // unasked where it is not known
	order           []int    // those that fit, best first, where a backend ranks offers
}

const unasked = ^Misses(0)

func (x *Index) under(a *Ask) *view {
	return &view{Index: x, ask: a, byKind: slices.Repeat([]Misses{unasked}, len(x.kinds)), byPlace: slices.Repeat([]Misses{unasked}, len(x.places))}
}

func (v *view) ofKind(n uint32) Misses {
	if v.byKind[n] == unasked {
		v.byKind[n] = v.missedOf(kindRules, v.kinds[n])
	}
	return v.byKind[n]
}

func (v *view) ofPlace(n uint32) Misses {
	if v.byPlace[n] == unasked {
		v.byPlace[n] = v.missedOf(placeRules, v.places[n])
	}
	return v.byPlace[n]
}

func (v *view) missedOf(rules Misses, i int) Misses {
	return missedOf(rules, &v.ask.Requirements, &v.ask.Profile, &v.offers[i])
}

// fits is [Fits] of the offer i.
func (v *view) fits(i int) bool {
	r := &v.rows[i]
	return !tooDear(v.ask.Requirements.MaxPrice, r.price) && v.ofKind(r.kind) == 0 && v.ofPlace(r.place) == 0
}

// inOrder are the offers that fit, best first. Those of an index are in this order but for rankings.
func (v *view) inOrder() iter.Seq[int] {
	if v.ranked {
		return slices.Values(v.reordered())
	}
	return v.allThatFit
}

func (v *view) allThatFit(yield func(i int) bool) {
	for i := range v.rows {
		if v.fits(i) && !yield(i) {
			return
		}
	}
}

// reordered are they in the order that they have among themselves.
func (v *view) reordered() []int {
	if v.order == nil {
		v.order = slices.AppendSeq([]int{}, v.allThatFit)
		resortBy(v.order, func(i int) *api.InstanceOffer { return &v.offers[i] })
	}
	return v.order
}

// at says which offers are in one of some places; the zero site is everywhere.
func (x *Index) at(sites []Site) func(i int) bool {
	if slices.ContainsFunc(sites, func(s Site) bool { return s.Backend == "" && s.Region == "" }) {
		return anywhere
	}
	here := make([]bool, len(x.places))
	for n, i := range x.places {
		here[n] = isAt(&x.offers[i], sites)
	}
	return func(i int) bool { return here[x.rows[i].place] }
}

func isAt(o *api.InstanceOffer, sites []Site) bool {
	return slices.ContainsFunc(sites, func(s Site) bool { return s.Backend == string(o.Backend) && s.Region == o.Region })
}

func anywhere(int) bool { return true }

// usable says that the offer i can be had now, if it fits.
func (v *view) usable(i int) bool {
	if v.ask.Requirements.Reservation == nil {
		return v.rows[i].usable
	}
	return v.ask.state(&v.offers[i]).Usable()
}

// cell are offers of which the rules say the same.
type cell struct {
	first int // of them
	n     int
	price float64 // the lowest
}

// cells divides all offers by what each of the views says of them, by a number of their kinds where there
// are such, whether they are in the places of each list, and by their availability.
func (x *Index) cells(views []*view, ofKinds []int, sites ...[]Site) []cell {
	kinds := classes(len(x.kinds), func(key []byte, n int) []byte {
		if ofKinds != nil {
			key = binary.NativeEndian.AppendUint32(key, uint32(ofKinds[n]))
		}
		for _, v := range views {
			key = binary.NativeEndian.AppendUint32(key, uint32(v.ofKind(uint32(n))))
			if v.ask.Requirements.Reservation != nil {
				key = append(key, v.ask.state(&x.offers[x.kinds[n]])...)
			}
		}
		return key
	})
	places := classes(len(x.places), func(key []byte, n int) []byte {
		for _, v := range views {
			key = binary.NativeEndian.AppendUint32(key, uint32(v.ofPlace(uint32(n))))
		}
		o := &x.offers[x.places[n]]
		for _, list := range sites {
			key = append(key, byte(flag(isAt(o, list))))
		}
		return key
	})
	var limits []*float64
	for _, v := range views {
		limits = append(limits, v.ask.Requirements.MaxPrice)
	}
	type key struct {
		kind, place, dear uint32
		state             uint8
	}
	number := map[key]int{}
	var list []cell
	for i := range x.rows {
		r := &x.rows[i]
		k := key{kind: kinds[r.kind], place: places[r.place], state: r.state}
		for _, l := range limits {
			if tooDear(l, r.price) {
				k.dear++ // who is too dear for more limits is too dear for the higher ones too
			}
		}
		n, known := number[k]
		if !known {
			n = len(list)
			number[k], list = n, append(list, cell{first: i, price: r.price})
		}
		list[n].n++
		list[n].price = min(list[n].price, r.price)
	}
	return list
}

// classes numbers things by their keys, equal ones alike.
func classes(n int, key func([]byte, int) []byte) []uint32 {
	list, seen, buf := make([]uint32, n), map[string]uint32{}, []byte(nil)
	for i := range list {
		buf = key(buf[:0], i)
		c, known := seen[string(buf)]
		if !known {
			c = uint32(len(seen))
			seen[string(buf)] = c
		}
		list[i] = c
	}
	return list
}
