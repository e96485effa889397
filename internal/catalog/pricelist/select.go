package pricelist

import (
	"maps"
	"slices"

	"dstack/internal/offer"
)

// Backends are those that the list has prices of, sorted.
func (l *List) Backends() []string {
	names := slices.Clone(l.parts.backends.values)
	slices.Sort(names)
	return names
}

// Regions are where the list has prices of a backend, sorted.
func (l *List) Regions(backend string) []string {
	in := make([]bool, len(l.places))
	for i, s := range l.columns.shape {
		if l.shapes[s].backend == backend {
			in[l.columns.place[i]] = true
		}
	}
	var names []string
	for i, p := range l.places {
		if in[i] && p.region != "" {
			names = append(names, p.region)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Types are the instance types of a backend by name, without place, price and date. Of those
// with several shapes it has one.
func (l *List) Types(backend string) map[string]Row {
	types := map[string]Row{}
	for _, s := range l.shapes {
		if s.backend == backend {
			types[s.instance] = Row{
				Backend: s.backend, Instance: s.instance, CPUs: s.cpus, MemoryMiB: s.memoryMiB, DiskMiB: s.diskMiB, Arch: s.arch, GPUs: s.gpus, GPU: s.gpu,
			}
		}
	}
	return types
}

// Replace returns a list in which the prices of some backends are those of other lists, each of
// one backend, and the names of these. A list of spot instances alone replaces the prices of
// spot instances. An older list than what is there replaces nothing.
func (l *List) Replace(others ...*List) (list *List, replaced []string) {
	var whole, spot []*List
	for _, o := range others {
		if o.OnlySpot() {
			spot = append(spot, o)
		} else {
			whole = append(whole, o)
		}
	}
	list, replaced = l.replace(whole, func(bool) bool { return true })
	list, more := list.replace(spot, func(spot bool) bool { return spot })
	replaced = append(replaced, more...)
	slices.Sort(replaced)
	return list, slices.Compact(replaced)
}

// replace is Replace of the rows that are part of what the others have.
func (l *List) replace(others []*List, part func(spot bool) bool) (list *List, replaced []string) {
	newer := map[string]*List{}
	for _, o := range others {
		for _, name := range o.Backends() {
			_, theirs := o.size(name, part)
			if _, ours := l.size(name, part); theirs >= ours {
				newer[name] = o
			}
		}
	}
	if len(newer) == 0 {
		return l, nil
	}
	all := &List{}
	order := all.take(l, func(backend string, spot bool) bool { return newer[backend] == nil || !part(spot) })
	for _, o := range others {
		order = all.merge(order, all.take(o, func(backend string, _ bool) bool { return newer[backend] == o }))
	}
	all.columns = all.columns.pick(order)
	all.parts = partsOf(all.shapes)
	return all, slices.Collect(maps.Keys(newer))
}

// OnlySpot says that the list has prices, and none of instances on demand.
func (l *List) OnlySpot() bool {
	return l.Len() > 0 && !slices.Contains(l.columns.spot, false)
}

// Size is how many rows the list has of a backend, and the latest date of them, "" without any.
func (l *List) Size(backend string) (rows int, newest string) {
	return l.size(backend, func(bool) bool { return true })
}

// SpotSize is Size of spot instances.
func (l *List) SpotSize(backend string) (rows int, newest string) {
	return l.size(backend, func(spot bool) bool { return spot })
}

func (l *List) size(backend string, part func(spot bool) bool) (rows int, newest string) {
	for i, s := range l.columns.shape {
		if l.shapes[s].backend == backend && part(l.columns.spot[i]) {
			rows++
			newest = max(newest, l.dates[l.columns.date[i]])
		}
	}
	return rows, newest
}

// merge are the rows of two lists in order, in order.
func (l *List) merge(a, b []int) []int {
	if len(b) == 0 {
		return a
	}
	all := make([]int, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if l.before(b[0], a[0]) < 0 {
			all, b = append(all, b[0]), b[1:]
		} else {
			all, a = append(all, a[0]), a[1:]
		}
	}
	return append(append(all, a...), b...)
}

// take appends some rows of another list and returns their numbers, in order.
func (l *List) take(o *List, of func(backend string, spot bool) bool) (rows []int) {
	var shapes, places, dates distinct[int] // of o, as numbers in l from the first on
	base := [3]int{len(l.shapes), len(l.places), len(l.dates)}
	c := &o.columns
	for i, s := range c.shape {
		if !of(o.shapes[s].backend, c.spot[i]) {
			continue
		}
		rows = append(rows, l.Len())
		l.columns.price = append(l.columns.price, c.price[i])
		l.columns.spot = append(l.columns.spot, c.spot[i])
		l.columns.shape = append(l.columns.shape, uint32(base[0])+shapes.add(int(s)))
		l.columns.place = append(l.columns.place, uint32(base[1])+places.add(int(c.place[i])))
		l.columns.date = append(l.columns.date, uint16(uint32(base[2])+dates.add(int(c.date[i]))))
	}
	for _, n := range shapes.values {
		l.shapes = append(l.shapes, o.shapes[n])
	}
	for _, n := range places.values {
		l.places = append(l.places, o.places[n])
	}
	for _, n := range dates.values {
		l.dates = append(l.dates, o.dates[n])
	}
	return rows
}

// Offers are the rows of a backend as backends know offers, cheapest first. Whether there is
// any capacity is not known. The zones are shared with the list and must not be changed.
func (l *List) Offers(backend string, q offer.Query) []offer.Offer {
	var list []offer.Offer
	c := &l.columns
	for i, n := range c.shape {
		s, p := &l.shapes[n], &l.places[c.place[i]]
		if s.backend != backend || !q.Region(p.region) || q.Spot != nil && *q.Spot != c.spot[i] {
			continue
		}
		list = append(list, offer.Offer{
			Backend: backend, Region: p.region, Instance: s.instance, Price: c.price[i], Availability: offer.Unknown, Zones: p.zones,
			Resources: offer.Resources{
				CPUs: s.cpus, MemoryMiB: s.memoryMiB, GPUs: slices.Repeat([]offer.GPU{s.gpu}, s.gpus), DiskMiB: s.diskMiB, Spot: c.spot[i], Arch: s.arch,
			},
		})
	}
	return list
}
