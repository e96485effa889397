package collect

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"dstack/internal/catalog/pricelist"
	"dstack/internal/offer"
)

// gcpKind is a type of machines, with what is attached to it.
type gcpKind struct {
	instance, gpu string
	gpus          int
}

func gcpKindOf(r pricelist.Row) gcpKind { return gcpKind{r.Instance, r.GPU.Name, r.GPUs} }

// gcpFound is what a project is told of types of machines: what they have, and in which zones they are.
type gcpFound struct {
	rows  map[gcpKind]pricelist.Row // without place and price
	where map[gcpKind]gcpZones
	all   gcpZones
	count int // of the zones of all kinds
}

type gcpZones map[string]bool

func newGCPFound() *gcpFound {
	return &gcpFound{rows: map[gcpKind]pricelist.Row{}, where: map[gcpKind]gcpZones{}, all: gcpZones{}}
}

// in are the zones of a kind by region, each in order.
func (f *gcpFound) in(kind gcpKind) map[string][]string {
	regions := map[string][]string{}
	for _, zone := range slices.Sorted(maps.Keys(f.where[kind])) {
		region := gcpZone.FindStringSubmatch(zone)[1]
		regions[region] = append(regions[region], zone)
	}
	return regions
}

// add remembers that there is a kind in a zone. Of what the same kind has in several zones, the first counts.
func (f *gcpFound) add(r pricelist.Row, zone string) error {
	kind := gcpKindOf(r)
	if f.where[kind] == nil {
		f.rows[kind], f.where[kind] = r, gcpZones{}
	}
	if !f.where[kind][zone] {
		f.where[kind][zone], f.all[zone] = true, true
		f.count++
	}
	switch {
	case len(f.rows) > maxGCPKinds:
		return fmt.Errorf("%w: there are more than %d types", errStrange, maxGCPKinds)
	case len(f.all) > maxGCPZones:
		return fmt.Errorf("%w: there are more than %d zones", errStrange, maxGCPZones)
	case f.count > pricelist.MaxRows:
		return fmt.Errorf("%w: types are in more than %d places", errStrange, pricelist.MaxRows)
	}
	return nil
}

// attach adds some GPUs to each kind in a zone that is not too large for them.
func (f *gcpFound) attach(gpu offer.GPU, gpus int, limit gcpLimit, zone string, found *gcpFound) error {
	for kind, r := range f.rows {
		if !f.where[kind][zone] || r.CPUs > limit.cpus || r.MemoryMiB > limit.gib<<10 {
			continue
		}
		r.GPU, r.GPUs = gpu, gpus
		if err := found.add(r, zone); err != nil {
			return err
		}
	}
	return nil
}

// gcpMore adds what the project can have and the known list has not got.
func (t *tray) gcpMore(found *gcpFound, parts gcpParts, listed map[gcpSold]bool) {
	byName := func(a, b gcpKind) int {
		return strings.Compare(fmt.Sprintf("%s %s %d", a.instance, a.gpu, a.gpus), fmt.Sprintf("%s %s %d", b.instance, b.gpu, b.gpus))
	}
	for _, kind := range slices.SortedFunc(maps.Keys(found.where), byName) {
		priced := false
		places := found.in(kind)
		for _, region := range slices.Sorted(maps.Keys(places)) {
			for _, spot := range []bool{false, true} {
				r := found.rows[kind]
				r.Region, r.Spot = region, spot
				if listed[gcpSold{kind, region, spot}] {
					priced = true
					continue
				}
				var ok bool
				if r.Price, ok = parts.price(r); !ok || !spot && gcpSpotOnly.MatchString(r.Instance) {
					continue
				}
				priced = true
				for _, r.Zone = range places[region] {
					t.addMore(r)
				}
			}
		}
		if !priced {
			t.leaveOut(kind.instance)
		}
	}
}
