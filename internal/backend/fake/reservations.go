package fake

import (
	"context"
	"fmt"
	"slices"

	"dstack/internal/backend"
	"dstack/internal/offer"
)

// Ranked is a cloud whose offers are listed in an order of its own.
type Ranked struct{ *Cloud }

// Ranked implements [backend.RankedBackend].
func (Ranked) Ranked() {}

// Reserve makes a reservation: Left is how many instances each part has room for while none is in it.
func (c *Cloud) Reserve(name string, parts ...offer.Reserved) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reservations[name] = parts
}

// Reservation implements [backend.ReservationBackend].
func (c *Cloud) Reservation(ctx context.Context, name string) ([]offer.Reserved, error) {
	var parts []offer.Reserved
	err := c.call(ctx, "Reservation", name, func(fate) error {
		parts = slices.Clone(c.reservations[name])
		for i := range parts {
			parts[i].Left = max(0, parts[i].Left-c.inside(name, parts[i]))
		}
		return nil
	}, nil)
	if err != nil {
		return nil, err
	}
	return parts, nil
}

// inside counts the machines in a part of a reservation. It wants the mutex held.
func (c *Cloud) inside(name string, part offer.Reserved) int {
	n := 0
	for _, m := range c.machines {
		if m.goneAt.IsZero() && m.req.Reservation == name && part.Holds(m.req.Offer) && (part.Zone == "" || m.req.Zone == part.Zone) {
			n++
		}
	}
	return n
}

// enter refuses a machine for which a reservation has no room, and chooses its zone. It wants the mutex
// held.
func (c *Cloud) enter(req *backend.CreateRequest) error {
	if req.Reservation == "" {
		return nil
	}
	fits := func(zone string) bool {
		return zone == "" || (req.Zone == "" || req.Zone == zone) && (len(req.Offer.Zones) == 0 || slices.Contains(req.Offer.Zones, zone))
	}
	for _, part := range c.reservations[req.Reservation] {
		if part.Holds(req.Offer) && fits(part.Zone) && c.inside(req.Reservation, part) < part.Left {
			if part.Zone != "" {
				req.Zone = part.Zone
			}
			return nil
		}
	}
	return fmt.Errorf("%s in %s in reservation %s: %w", req.Offer.Instance, req.Offer.Region, req.Reservation, backend.ErrNoCapacity)
}
