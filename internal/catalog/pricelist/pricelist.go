// Package pricelist holds list prices of instance types: of the clouds that have published
// them, embedded in the program, or of catalogs in the original's format. Nothing here asks a
// cloud, so that a list says what something costs where it can be had, not that it can be had.
//
// A list is a table in memory in the order of price. What rows have in common is stored once,
// so that a question of 100,000 rows asks the rules of package scheduler about a few hundred
// distinct values and then looks their answers up.
package pricelist

import (
	"cmp"
	"slices"

	"dstack/internal/api"
	"dstack/internal/offer"
)

// A Row is the list price of an instance type in one place.
type Row struct {
	Backend   string // name of the backend type: "aws"
	Instance  string // the provider's own name of the type
	Region    string // "" where the list does not say where
	Zone      string // "" where the price is of the whole region
	CPUs      int
	MemoryMiB int
	DiskMiB   int    // 0: chosen when the instance is created, or not known
	Arch      string // "x86" or "arm"
	GPUs      int
	GPU       offer.GPU // zero without GPUs
	Spot      bool
	// Price is for the whole instance, in US dollars per hour, before tax.
	Price float64
	// AsOf is the day, month or year that the price is of: "2026-08-03", "2026-08", "2026".
	AsOf string
}

// An Offer is a row as the rest of the program knows offers. Its availability is not known.
type Offer struct {
	api.InstanceOffer
	AsOf string `json:"as_of"` // as in [Row]
}

// A List is an immutable table of prices, safe for concurrent use. [Builder] and [Decode] make
// one.
type List struct {
	shapes  []shape
	places  []place
	dates   []string
	columns columns
	parts   parts
}

// A shape is an instance type: what the rows have in common that differ in place, date and price.
type shape struct {
	backend, instance        string
	cpus, memoryMiB, diskMiB int
	arch                     string
	gpu                      offer.GPU
	gpus                     int
}

// A place is a region, and the zones in it that the price is of, nil for all.
type place struct {
	region string
	zones  []string
}

// columns has one entry per row in each of its fields, in the order of [List.before].
type columns struct {
	price []float64
	shape []uint32 // index in shapes
	place []uint32 // index in places
	date  []uint16 // index in dates
	spot  []bool
}

// Len is the number of rows.
func (l *List) Len() int { return len(l.columns.price) }

// Dates are the oldest and the newest date of any row, "" in an empty list.
func (l *List) Dates() (oldest, newest string) {
	if len(l.dates) == 0 {
		return "", ""
	}
	return slices.Min(l.dates), slices.Max(l.dates)
}

// Row returns the row i; of its zones, if there are several, the first.
func (l *List) Row(i int) Row {
	c := &l.columns
	s, p := &l.shapes[c.shape[i]], &l.places[c.place[i]]
	r := Row{
		Backend: s.backend, Instance: s.instance, Region: p.region, CPUs: s.cpus, MemoryMiB: s.memoryMiB, DiskMiB: s.diskMiB,
		Arch: s.arch, GPUs: s.gpus, GPU: s.gpu, Spot: c.spot[i], Price: c.price[i], AsOf: l.dates[c.date[i]],
	}
	if len(p.zones) > 0 {
		r.Zone = p.zones[0]
	}
	return r
}

// reserves says that a provider sells reservations in which instances are created (lifecycle 7.4).
func reserves(backend string) bool { return backend == "aws" || backend == "gcp" }

// offer is the row i. It shares the zones with the list.
func (l *List) offer(i int) Offer {
	c := &l.columns
	s, p := &l.shapes[c.shape[i]], &l.places[c.place[i]]
	arch := api.CPUArchitecture(s.arch)
	return Offer{AsOf: l.dates[c.date[i]], InstanceOffer: api.InstanceOffer{
		Backend: api.BackendType(s.backend), Region: p.region, Price: c.price[i], Availability: api.Unknown,
		AvailabilityZones: p.zones, InstanceRuntime: api.RuntimeShim, Blocks: 1, TotalBlocks: 1, Reserves: reserves(s.backend),
		Instance: api.InstanceType{Name: s.instance, Resources: api.Resources{
			CPUs: s.cpus, MemoryMiB: s.memoryMiB, Gpus: gpuSet{s.gpu, s.gpus}.list(),
			Spot: c.spot[i], Disk: api.Disk{SizeMiB: s.diskMiB}, CPUArch: &arch,
		}},
	}}
}

// before orders rows by price, then by name, place and kind, as offers are.
func (l *List) before(i, j int) int {
	c := &l.columns
	a, b := &l.shapes[c.shape[i]], &l.shapes[c.shape[j]]
	spotFirst := 0
	if c.spot[i] != c.spot[j] {
		spotFirst = 1
		if c.spot[i] {
			spotFirst = -1
		}
	}
	return cmp.Or(
		cmp.Compare(c.price[i], c.price[j]),
		cmp.Compare(a.backend, b.backend),
		cmp.Compare(l.places[c.place[i]].region, l.places[c.place[j]].region),
		cmp.Compare(a.instance, b.instance),
		spotFirst,
		cmp.Compare(a.gpus, b.gpus),
		cmp.Compare(c.shape[i], c.shape[j]),
		slices.Compare(l.places[c.place[i]].zones, l.places[c.place[j]].zones),
	)
}
