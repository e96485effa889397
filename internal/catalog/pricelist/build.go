package pricelist

import (
	"fmt"
	"math"
	"slices"

	"dstack/internal/offer"
)

// MaxRows bounds a list. All that the clouds publish is some hundred thousand rows.
const MaxRows = 500_000

// A Builder collects rows. Its zero value has none.
type Builder struct {
	shapes distinct[shape]
	places distinct[zonedPlace]
	dates  distinct[string]
	kinds  distinct[kind]
	seen   map[key]struct{}
	// unknown are accelerators of rows that were left out.
	unknown distinct[string]
	columns
}

type zonedPlace struct{ region, zone string }

// kind is what tells instance types apart: the same with another memory is not another.
type kind struct {
	backend, instance string
	gpu               offer.GPU
	gpus              int
}

// key is what may have one price only.
type key struct {
	kind, place uint32
	spot        bool
}

// Add checks a row and adds it. A row that is refused changes nothing.
func (b *Builder) Add(r Row) error {
	if err := check(r); err != nil {
		return err
	}
	if len(b.price) == MaxRows {
		return fmt.Errorf("there are more than %d rows", MaxRows)
	}
	date := b.dates.add(r.AsOf)
	if date > math.MaxUint16 {
		return &FieldError{"as_of", "is one of too many dates"}
	}
	k := key{b.kinds.add(kind{r.Backend, r.Instance, r.GPU, r.GPUs}), b.places.add(zonedPlace{r.Region, r.Zone}), r.Spot}
	if _, known := b.seen[k]; known {
		return &FieldError{"instance_name", fmt.Sprintf("%s in %q is there twice", r.Instance, r.Region)}
	}
	if b.seen == nil {
		b.seen = map[key]struct{}{}
	}
	b.seen[k] = struct{}{}
	b.price = append(b.price, r.Price)
	b.shape = append(b.shape, b.shapes.add(shape{r.Backend, r.Instance, r.CPUs, r.MemoryMiB, r.DiskMiB, r.Arch, r.GPU, r.GPUs}))
	b.place = append(b.place, k.place)
	b.date = append(b.date, uint16(date))
	b.spot = append(b.spot, r.Spot)
	return nil
}

// Unknown are the names of accelerators that are not known, whose rows were left out.
func (b *Builder) Unknown() []string { return slices.Clone(b.unknown.values) }

// List returns what was added, in order. The Builder must not be used any more.
func (b *Builder) List() *List {
	l := &List{shapes: b.shapes.values, dates: b.dates.values, columns: b.columns, parts: partsOf(b.shapes.values)}
	for _, p := range b.places.values {
		pl := place{region: p.region}
		if p.zone != "" {
			pl.zones = []string{p.zone}
		}
		l.places = append(l.places, pl)
	}
	order := make([]int, l.Len())
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, l.before)
	l.columns = l.columns.pick(order)
	l.mergeZones()
	return l
}

// mergeZones makes one row of those that differ in their zones only, which sorting has put
// side by side.
func (l *List) mergeZones() {
	c := &l.columns
	sets := map[string]uint32{} // places of several zones
	var keep []int
	for i := 0; i < l.Len(); {
		zones := l.places[c.place[i]].zones
		j := i + 1
		for ; zones != nil && j < l.Len() && l.differInZones(i, j); j++ {
			zones = append(slices.Clip(zones), l.places[c.place[j]].zones...)
		}
		if j > i+1 {
			name := fmt.Sprintf("%q", zones)
			n, known := sets[name]
			if !known {
				n = uint32(len(l.places))
				l.places = append(l.places, place{l.places[c.place[i]].region, zones})
				sets[name] = n
			}
			c.place[i] = n
		}
		keep = append(keep, i)
		i = j
	}
	if len(keep) < l.Len() {
		l.columns = c.pick(keep)
	}
}

func (l *List) differInZones(i, j int) bool {
	c := &l.columns
	a, b := l.places[c.place[i]], l.places[c.place[j]]
	return c.price[i] == c.price[j] && c.shape[i] == c.shape[j] && c.spot[i] == c.spot[j] && c.date[i] == c.date[j] &&
		a.region == b.region && b.zones != nil
}

// pick are the rows of some numbers, in their order.
func (c columns) pick(rows []int) columns {
	var p columns
	for _, i := range rows {
		p.price = append(p.price, c.price[i])
		p.shape = append(p.shape, c.shape[i])
		p.place = append(p.place, c.place[i])
		p.date = append(p.date, c.date[i])
		p.spot = append(p.spot, c.spot[i])
	}
	return p
}
