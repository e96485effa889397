package scheduler

import (
	"fmt"
	"slices"

	"dstack/internal/api"
)

// hasRoom says that a reservation has room for an offer in one of the zones, nil for any. One that is full
// has nothing to offer.
func hasRoom(reservation string, zones []string, o *api.InstanceOffer) bool {
	for i := range o.Rooms {
		if serves(o.Rooms[i], reservation, zones) {
			return true
		}
	}
	return false
}

// state is an offer's availability to an ask. What there is room for in a reservation can be had,
// whatever others can have and whatever is left of a quota.
func (a *Ask) state(o *api.InstanceOffer) api.InstanceAvailability {
	name := a.Requirements.Reservation
	if name != nil && isNew(o) && o.Availability != api.NoBalance && hasRoom(*name, a.Profile.AvailabilityZones, o) {
		return api.Available
	}
	return o.Availability
}

// narrowed is an offer as it serves an ask: in the zones that are asked for, of a reservation in
// those where there is room.
func (a *Ask) narrowed(o api.InstanceOffer) api.InstanceOffer {
	asked := a.Profile.AvailabilityZones
	o.Availability = a.state(&o)
	if asked != nil {
		o.AvailabilityZones = slices.DeleteFunc(slices.Clone(o.AvailabilityZones), func(z string) bool { return !contains(asked, z) })
	}
	name := a.Requirements.Reservation
	if name == nil {
		return o
	}
	var zones []string
	for _, r := range o.Rooms {
		if !serves(r, *name, asked) {
			continue
		}
		if r.Zone == "" {
			return o
		}
		zones = append(zones, r.Zone)
	}
	if zones != nil {
		o.AvailabilityZones = zones
	}
	return o
}

// serves says that there is room in a part of a reservation that was asked for.
func serves(r api.Room, reservation string, zones []string) bool {
	return r.Reservation == reservation && r.Left > 0 && zoned(zones, r.Zone)
}

// roomKey names a part of a reservation.
type roomKey struct {
	reservation, backend, region, zone, instance string
	gpus                                         int
}

// rooms counts instances that are to be created in parts of reservations.
type rooms map[roomKey]int

// less is an offer beside what is to be created: with so much less room in the reservation.
func (r rooms) less(o api.InstanceOffer) api.InstanceOffer {
	if len(r) == 0 || len(o.Rooms) == 0 {
		return o
	}
	o.Rooms = slices.Clone(o.Rooms)
	for i := range o.Rooms {
		o.Rooms[i].Left -= r[keyOfRoom(&o, i)]
	}
	return o
}

func keyOfRoom(o *api.InstanceOffer, i int) roomKey {
	return roomKey{o.Rooms[i].Reservation, string(o.Backend), o.Region, o.Rooms[i].Zone, o.Instance.Name, len(o.Instance.Resources.Gpus)}
}

// take counts one more instance of an offer in the first part of the reservation that has room.
func (r rooms) take(a *Ask, o *api.InstanceOffer) {
	for i := range o.Rooms {
		if a.Requirements.Reservation != nil && serves(o.Rooms[i], *a.Requirements.Reservation, a.Profile.AvailabilityZones) {
			r[keyOfRoom(o, i)]++
			return
		}
	}
}

// aboutReservation says what is known of the reservation that a gang asks for, "" when that is not
// why it has no place.
func (p *placer) aboutReservation(g *Gang) string {
	name := g.Jobs[0].Requirements.Reservation
	if name == nil || p.Backends == 0 {
		return ""
	}
	left, known := 0, false
	counted := map[roomKey]bool{}
	for i := range p.Offers {
		o := &p.Offers[i]
		if o.Reserves {
			return "" // what there is in it, nobody knows
		}
		for n, r := range o.Rooms {
			if k := keyOfRoom(o, n); r.Reservation == *name && !counted[k] {
				counted[k], known = true, true
				left += max(0, r.Left-p.taken[k])
			}
		}
	}
	switch {
	case !known:
		return fmt.Sprintf("No backend of the project has offers in a reservation '%s'", *name)
	case left == 0:
		return fmt.Sprintf("Reservation '%s' is full", *name)
	case left < len(g.Jobs):
		return fmt.Sprintf("Reservation '%s' has room for %d instances, %d are needed", *name, left, len(g.Jobs))
	}
	return ""
}
