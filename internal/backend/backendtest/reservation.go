package backendtest

import (
	"context"
	"errors"
	"strings"
	"testing"

	"dstack/internal/backend"
	"dstack/internal/offer"
)

// reservation is for every [backend.ReservationBackend].
var reservation = []test{
	{"ReservationTellsItsRoom", reservationTellsRoom},
	{"ReservationUnknownIsEmpty", reservationUnknown},
	{"ReservationRoomIsTaken", reservationIsTaken},
	{"CreateInUnknownReservationIsRefused", createInUnknownReservation},
	{"ReservationWithCancelledContextIsAnError", reservationCancelled},
}

// parts are the parts of a reservation that hold an offer, with all the room in them.
func (x *session) parts(t *testing.T, name string, o offer.Offer) (parts, left int) {
	t.Helper()
	all, err := x.Backend.(backend.ReservationBackend).Reservation(x.ctx, name)
	if err != nil {
		t.Fatalf("Reservation(%q): %v", name, err)
	}
	for _, r := range all {
		if r.Left < 0 {
			t.Errorf("Reservation(%q): %d are left in %+v", name, r.Left, r)
		}
		if r.Holds(o) {
			parts, left = parts+1, left+r.Left
		}
	}
	return parts, left
}

// reservable is an offer whose instances can be in reservations.
func (x *session) reservable(t *testing.T) offer.Offer {
	t.Helper()
	offers, err := x.Backend.Offers(x.ctx, offer.Query{})
	if err != nil {
		t.Fatalf("Offers: %v", err)
	}
	for _, o := range offers {
		if o.Availability.Usable() && !o.Resources.Spot {
			return o
		}
	}
	t.Fatalf("none of %d offers is usable and on demand; the double has to have one", len(offers))
	return offer.Offer{}
}

func reservationTellsRoom(t *testing.T, x *session) {
	o := x.reservable(t)
	name := x.Reserve(t, o, 2)
	if parts, left := x.parts(t, name, o); parts == 0 || left != 2 {
		t.Errorf("%d parts of the reservation hold %s in %s, with room for %d, want room for 2", parts, o.Instance, o.Region, left)
	}
	o.Instance += "-other"
	if parts, _ := x.parts(t, name, o); parts != 0 {
		t.Errorf("%d parts of the reservation hold %s, for which it is not", parts, o.Instance)
	}
}

func reservationUnknown(t *testing.T, x *session) {
	x.Reserve(t, x.reservable(t), 1)
	for _, name := range []string{"nobodys-reservation", "no such\"name", "../" + strings.Repeat("x", 300)} {
		if all, err := x.Backend.(backend.ReservationBackend).Reservation(x.ctx, name); err != nil || len(all) != 0 {
			t.Errorf("Reservation(%.40q) = %+v, %v; want nothing", name, all, err)
		}
	}
}

func reservationIsTaken(t *testing.T, x *session) {
	o := x.reservable(t)
	name := x.Reserve(t, o, 1)
	req := x.request()
	req.Offer, req.Reservation = o, name
	if _, err := x.ask(x.ctx, req); err != nil {
		t.Fatalf("Create in a reservation with room for one: %v", err)
	}
	if parts, left := x.parts(t, name, o); parts == 0 || left != 0 {
		t.Errorf("with an instance in it, %d parts of the reservation have room for %d; want parts without room", parts, left)
	}
	second := x.request()
	second.Offer, second.Reservation = o, name
	if inst, err := x.ask(x.ctx, second); !errors.Is(err, backend.ErrNoCapacity) {
		t.Errorf("Create in a full reservation = %+v, %v; want ErrNoCapacity", inst.Ref, err)
	}
}

func createInUnknownReservation(t *testing.T, x *session) {
	req := x.request()
	req.Offer, req.Reservation = x.reservable(t), "nobodys-reservation"
	if inst, err := x.ask(x.ctx, req); !backend.Refused(err) {
		t.Errorf("Create in a reservation that does not exist = %+v, %v; want a refusal", inst.Ref, err)
	}
}

func reservationCancelled(t *testing.T, x *session) {
	name := x.Reserve(t, x.reservable(t), 1)
	ctx, cancel := context.WithCancel(x.ctx)
	cancel()
	if all, err := x.Backend.(backend.ReservationBackend).Reservation(ctx, name); err == nil {
		t.Errorf("Reservation with a cancelled context = %+v and no error", all)
	}
}

// rankedKeepsOrder is for every [backend.RankedBackend].
func rankedKeepsOrder(t *testing.T, x *session) {
	keys := func() (list []offer.Key) {
		offers, err := x.Backend.Offers(x.ctx, offer.Query{})
		if err != nil {
			t.Fatalf("Offers: %v", err)
		}
		for _, o := range offers {
			list = append(list, o.Key())
		}
		return list
	}
	first := keys()
	for range 3 {
		again := keys()
		for i := range min(len(first), len(again)) {
			if first[i] != again[i] {
				t.Fatalf("offer %d is %+v, then %+v: a ranking stays while nothing changes", i, first[i], again[i])
			}
		}
	}
}
