package pricelist

import (
	"fmt"
	"slices"

	"dstack/internal/offer"
)

const (
	// MaxRows bounds a list. All that the clouds publish is some hundred thousand rows.
	MaxRows = 500_000
	// maxDistinct bounds each of what rows may differ in: types, places, dates, and accelerators
	// that are not known. A cloud has some thousand. It keeps lists small in memory, and in
	// their compact form, of which [maxEncoded] bytes are more than the largest list needs.
	maxDistinct = 20_000
)

// A Builder collects rows. Its zero value has none.
type Builder struct {
	shapes distinct[shape]
	places distinct[zonedPlace]
	dates  distinct[string]
	sold   sold
	// unknown are accelerators of rows that were left out.
	unknown distinct[string]
	columns
}

type zonedPlace struct{ region, zone string }

// sold remembers what has a price, to find what has two.
type sold struct {
	kinds  distinct[kind]
	places distinct[flaggedPlace]
	seen   map[key]struct{}
}

// flaggedPlace is where something is sold, and how, where it is not sold plainly.
type flaggedPlace struct {
	zonedPlace
	flags string
}

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

// add takes what is sold at one price, and refuses what is sold at one already.
func (s *sold) add(r Row, flags string) error {
	k, p := kind{r.Backend, r.Instance, r.GPU, r.GPUs}, flaggedPlace{zonedPlace{r.Region, r.Zone}, flags}
	switch {
	case s.kinds.full(k):
		return errTooMany("instance_name")
	case s.places.full(p):
		return errTooMany("location")
	}
	n := key{s.kinds.add(k), s.places.add(p), r.Spot}
	if _, known := s.seen[n]; known {
		return &FieldError{"instance_name", fmt.Sprintf("%s in %q is there twice", r.Instance, r.Region)}
	}
	if s.seen == nil {
		s.seen = map[key]struct{}{}
	}
	s.seen[n] = struct{}{}
	return nil
}

func errTooMany(column string) error {
	return &FieldError{column, fmt.Sprintf("is one of more than %d different ones", maxDistinct)}
}

// Add checks a row and adds it.
func (b *Builder) Add(r Row) error {
	if err := check(r); err != nil {
		return err
	}
	sh, p := shape{r.Backend, r.Instance, r.CPUs, r.MemoryMiB, r.DiskMiB, r.Arch, r.GPU, r.GPUs}, zonedPlace{r.Region, r.Zone}
	switch {
	case len(b.price) == MaxRows:
		return fmt.Errorf("there are more than %d rows", MaxRows)
	case b.shapes.full(sh):
		return errTooMany("instance_name")
	case b.dates.full(r.AsOf):
		return errTooMany("as_of")
	}
	if err := b.sold.add(r, ""); err != nil {
		return err
	}
	b.price = append(b.price, r.Price)
	b.shape = append(b.shape, b.shapes.add(sh))
	b.place = append(b.place, b.places.add(p))
	b.date = append(b.date, uint16(b.dates.add(r.AsOf)))
	b.spot = append(b.spot, r.Spot)
	return nil
}

// addUnknown remembers the name of an accelerator that is not known.
func (b *Builder) addUnknown(name string) error {
	if b.unknown.full(name) {
		return errTooMany("gpu_name")
	}
	b.unknown.add(name)
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
		zones := slices.Clone(l.places[c.place[i]].zones)
		j := i + 1
		for ; zones != nil && j < l.Len() && l.differInZones(i, j); j++ {
			zones = append(zones, l.places[c.place[j]].zones...)
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
