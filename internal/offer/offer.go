// Package offer holds the values that backends, catalog and scheduler share: what can be
// provisioned, where, and at what price. It has no behaviour beyond comparing them.
package offer

import (
	"cmp"
	"slices"
	"strings"
)

// MaxPrice is more than anything costs, in US dollars per hour: a higher price is a mistake.
const MaxPrice = 100_000

// An Offer is one instance type in one region at one price.
type Offer struct {
	Backend   string // name of the backend type: "aws"
	Region    string // the provider's own name: "us-east-1"
	Instance  string // the provider's own name of the type: "p5.48xlarge"
	Resources Resources
	// Price is for the whole instance, in US dollars per hour, on demand or spot, before tax.
	Price        float64
	Availability Availability
	// Zones are those that have it, nil where the provider has none or does not say.
	Zones []string
	// Data is for the backend that made the offer and comes back to it in a create request.
	Data map[string]any
	// Runtime says what runs on the instance: "shim" (a machine that we put the agent on) or
	// "runner" (the provider starts the container itself). "" is "shim".
	Runtime string
	// Reserves says that an instance can be created in a reservation, Multinode that the
	// backend's instances of one region reach each other. Backends leave both to the catalog,
	// which knows what they declare.
	Reserves  bool `json:"-"`
	Multinode bool `json:"-"`
	// Rooms are what reservations that somebody asks for have of it. The catalog sets them.
	Rooms []Room `json:"-"`
	// Order is the place that the backend's own ranking gives the offer, from 1; 0 without such a
	// ranking. The catalog sets it.
	Order int `json:"-"`
}

// Resources are what one instance has.
type Resources struct {
	CPUs      int
	MemoryMiB int
	GPUs      []GPU // one entry per device
	DiskMiB   int   // 0: not known
	Spot      bool
	Arch      string // "x86", "arm", or "" when not known
}

// GPU is one accelerator.
type GPU struct {
	Name      string // as users write it: "H100"
	MemoryMiB int
	Vendor    string // "nvidia", "amd", "google", "intel", "tenstorrent"
}

// Availability is what the provider last said about an offer.
type Availability string

// The words of the wire.
const (
	Unknown      Availability = "unknown"
	Available    Availability = "available"
	NotAvailable Availability = "not_available"
	NoQuota      Availability = "no_quota"
	NoBalance    Availability = "no_balance"
	Idle         Availability = "idle" // an instance that we have
	Busy         Availability = "busy"
)

// Usable reports whether trying the offer makes sense.
func (a Availability) Usable() bool {
	return a == Unknown || a == Available || a == Idle
}

// A Query narrows what a backend lists. It is a hint to ask the provider for less: the
// scheduler checks every offer itself. The zero value asks for everything.
type Query struct {
	Regions []string // nil: all
	GPUs    []string // names, lower case; nil: all
	Spot    *bool    // nil: both
	// Full asks backends that slice nodes (kubernetes, slurm) for whole nodes.
	Full bool
}

// Reserved is a part of a reservation: of one instance type in one place.
type Reserved struct {
	Region   string
	Zone     string // "" where it is good for the whole region
	Instance string
	// GPUs are those of each of its instances, empty for none; nil where the type has no choice.
	GPUs []GPU
	Left int // how many more instances can be created in it now
}

// Holds reports whether instances of an offer can be created in it, if there is room. Spot
// instances never can.
func (r Reserved) Holds(o Offer) bool {
	if o.Resources.Spot || r.Region != o.Region || r.Instance != o.Instance {
		return false
	}
	return r.GPUs == nil || slices.EqualFunc(r.GPUs, o.Resources.GPUs, func(a, b GPU) bool { return strings.EqualFold(a.Name, b.Name) })
}

// Room is what a reservation has of an offer.
type Room struct {
	Reservation string // as users write it
	Zone        string // "" for the whole region
	Left        int    // how many more instances
}

// Region reports whether offers of the region are asked for.
func (q Query) Region(name string) bool {
	if q.Regions == nil {
		return true
	}
	for _, r := range q.Regions {
		if strings.EqualFold(r, name) {
			return true
		}
	}
	return false
}

// Key identifies what an offer is of: two offers with one key differ in price, availability
// or zones only.
type Key struct {
	Backend, Region, Instance string
	Spot                      bool
}

// Key returns the offer's key.
func (o Offer) Key() Key { return Key{o.Backend, o.Region, o.Instance, o.Resources.Spot} }

// Compare orders offers by price, then by key, so that equal lists are listed equally.
func Compare(a, b Offer) int {
	spot := func(o Offer) int {
		if o.Resources.Spot {
			return 0
		}
		return 1
	}
	return cmp.Or(
		cmp.Compare(a.Price, b.Price),
		cmp.Compare(a.Backend, b.Backend),
		cmp.Compare(a.Region, b.Region),
		cmp.Compare(a.Instance, b.Instance),
		cmp.Compare(spot(a), spot(b)),
	)
}
