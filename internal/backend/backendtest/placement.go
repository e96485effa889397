package backendtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/uuid"

	"dstack/internal/backend"
	"dstack/internal/offer"
)

// placement is for every [backend.PlacementBackend]: one that has it says so by its code.
var placement = []test{
	{"PlacementIsIdempotentInToken", placementIsIdempotent},
	{"PlacementTokensAreSeparate", placementTokensAreSeparate},
	{"PlacementBecomesUsable", placementBecomesUsable},
	{"PlacementInUnknownRegionIsRefused", placementInUnknownRegion},
	{"PlacementIsListedWithIntent", placementIsListed},
	{"PlacementTakesInstancesAndOutlivesThem", placementTakesInstances},
	{"PlacementBelongsToItsRegion", placementBelongsToRegion},
	{"PlacementDeletedIsGone", placementDeleted},
	{"PlacementUnknownIsHarmless", placementUnknown},
	{"PlacementWithCancelledContextIsNoRefusal", placementCancelled},
}

// placementWire is for those of them that speak HTTP.
var placementWire = []test{
	{"LostCreatePlacementReplyIsNoRefusal", lostPlacementReply},
	{"LostDeletePlacementReplyIsNoEnd", lostDeletePlacementReply},
}

// groups is the backend as one that has placement groups.
func (x *session) groups() backend.PlacementBackend { return x.Backend.(backend.PlacementBackend) }

func placementOf(o offer.Offer) backend.PlacementRequest {
	token := uuid.NewString()
	return backend.PlacementRequest{
		Token: token, Name: "dstack-main-test-" + token[:8], Region: o.Region, Offer: o,
		Tags: map[string]string{backend.TagServer: serverID, backend.TagIntent: token, backend.TagProject: "main", backend.TagFleet: "test", backend.TagName: "test"},
	}
}

// joining is an offer whose instances can be in groups.
func (x *session) joining(t *testing.T) offer.Offer {
	t.Helper()
	offers, err := x.Backend.Offers(x.ctx, offer.Query{})
	if err != nil {
		t.Fatalf("Offers: %v", err)
	}
	i := slices.IndexFunc(offers, func(o offer.Offer) bool {
		return o.Availability.Usable() && x.groups().Placeable(o, backend.Ref{})
	})
	if i < 0 {
		t.Fatalf("none of %d offers is usable and Placeable; the double has to have one", len(offers))
	}
	return offers[i]
}

func (x *session) createPlacement(t *testing.T) (backend.PlacementRequest, backend.Placement) {
	t.Helper()
	req := placementOf(x.joining(t))
	p, err := x.groups().CreatePlacement(x.ctx, req)
	if err != nil {
		t.Fatalf("CreatePlacement: %v", err)
	}
	if p.Ref.ID == "" || p.State == "" || p.Ref.Region != req.Region {
		t.Fatalf("CreatePlacement in %s = %+v: Ref.ID, Ref.Region and State are required", req.Region, p)
	}
	return req, p
}

func placementIsIdempotent(t *testing.T, x *session) {
	req, first := x.createPlacement(t)
	ids, errs := make([]string, 3), make([]error, 3)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			p, err := x.groups().CreatePlacement(x.ctx, req)
			ids[i], errs[i] = p.Ref.ID, err
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("CreatePlacement with the same token again, three times at once: %v", err)
	}
	for _, id := range ids {
		if id != first.Ref.ID {
			t.Errorf("CreatePlacement with one token made %s and %s", first.Ref.ID, id)
		}
	}
}

func placementTokensAreSeparate(t *testing.T, x *session) {
	_, a := x.createPlacement(t)
	_, b := x.createPlacement(t)
	if a.Ref.ID == b.Ref.ID {
		t.Errorf("two tokens, one group %s", a.Ref.ID)
	}
}

func (x *session) usable(t *testing.T, ref backend.Ref) {
	t.Helper()
	x.eventually(t, func() string {
		p, err := x.groups().DescribePlacement(x.ctx, ref)
		if err != nil || p.State != backend.StateRunning || p.Ref.ID != ref.ID {
			return fmt.Sprintf("DescribePlacement(%s) = %+v, %v, want it running", ref.ID, p, err)
		}
		return ""
	})
}

func placementBecomesUsable(t *testing.T, x *session) {
	_, p := x.createPlacement(t)
	x.usable(t, p.Ref)
}

func placementInUnknownRegion(t *testing.T, x *session) {
	req := placementOf(x.joining(t))
	req.Region, req.Offer.Region = "nowhere-9", "nowhere-9"
	if _, err := x.groups().CreatePlacement(x.ctx, req); !backend.Refused(err) {
		t.Errorf("CreatePlacement in a region that does not exist = %v, want a refusal", err)
	}
}

func placementIsListed(t *testing.T, x *session) {
	req, p := x.createPlacement(t)
	var found backend.Owned
	x.eventually(t, func() string {
		owned, err := x.Backend.List(x.ctx, serverID)
		if err != nil {
			return fmt.Sprintf("List: %v", err)
		}
		for _, o := range owned {
			if o.Ref.ID == p.Ref.ID {
				found = o
				return ""
			}
		}
		return fmt.Sprintf("group %s is not listed", p.Ref.ID)
	})
	if found.Kind != backend.PlacementResource || found.State == "" || found.IntentID != req.Token && found.Name != req.Name {
		t.Errorf("listed as %+v, want a placement with intent %q or name %q and a state", found, req.Token, req.Name)
	}
	if got, err := x.groups().DescribePlacement(x.ctx, found.Ref); err != nil || got.Ref.ID != p.Ref.ID {
		t.Errorf("the listed ref leads to %s, %v", got.Ref.ID, err)
	}
	if owned, err := x.Backend.List(x.ctx, "another-server"); err != nil || len(owned) != 0 {
		t.Errorf("List of another server = %v, %v, want nothing", owned, err)
	}
}

// endPlacement deletes a group until the provider says that it is gone.
func (x *session) endPlacement(t *testing.T, ref backend.Ref) {
	t.Helper()
	x.eventually(t, func() string {
		if err := x.groups().DeletePlacement(x.ctx, ref); err != nil && !errors.Is(err, backend.ErrNotFound) {
			return fmt.Sprintf("DeletePlacement: %v", err)
		}
		p, err := x.groups().DescribePlacement(x.ctx, ref)
		if errors.Is(err, backend.ErrNotFound) || err == nil && p.State == backend.StateGone {
			return ""
		}
		return fmt.Sprintf("after DeletePlacement, DescribePlacement = %s, %v", p.State, err)
	})
}

func placementTakesInstances(t *testing.T, x *session) {
	x.offer = x.joining(t)
	_, p := x.createPlacement(t)
	x.usable(t, p.Ref)
	if !x.groups().Placeable(x.offer, p.Ref) {
		t.Fatalf("instances of %s in %s cannot join the group that was made for them", x.offer.Instance, x.offer.Region)
	}
	var members []backend.Ref
	for range 2 {
		req := x.request()
		req.Placement = &p.Ref
		inst, err := x.Backend.Create(x.ctx, req)
		if err != nil {
			t.Fatalf("Create in a group: %v", err)
		}
		members = append(members, inst.Ref)
	}
	if err := x.groups().DeletePlacement(x.ctx, p.Ref); !errors.Is(err, backend.ErrInUse) {
		t.Errorf("DeletePlacement with instances in the group = %v, want ErrInUse", err)
	}
	x.usable(t, p.Ref)
	for _, ref := range members {
		if got, err := x.Backend.Describe(x.ctx, ref); err != nil || got.State == backend.StateGone || got.State == backend.StateDeleting {
			t.Errorf("an instance of the group is %s, %v after that", got.State, err)
		}
		x.end(t, ref)
	}
	x.usable(t, p.Ref)
	x.endPlacement(t, p.Ref)
}

func placementBelongsToRegion(t *testing.T, x *session) {
	_, p := x.createPlacement(t)
	offers, err := x.Backend.Offers(x.ctx, offer.Query{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range offers {
		if o.Region != p.Ref.Region && x.groups().Placeable(o, p.Ref) {
			t.Errorf("Placeable says that %s in %s can join a group in %s", o.Instance, o.Region, p.Ref.Region)
		}
	}
}

func placementDeleted(t *testing.T, x *session) {
	_, p := x.createPlacement(t)
	x.endPlacement(t, p.Ref)
	if err := x.groups().DeletePlacement(x.ctx, p.Ref); err != nil && !errors.Is(err, backend.ErrNotFound) {
		t.Errorf("DeletePlacement of what is gone: %v, want nil or ErrNotFound", err)
	}
	x.unlisted(t, "a deleted group", p.Ref)
}

func placementUnknown(t *testing.T, x *session) {
	_, p := x.createPlacement(t)
	ref := p.Ref
	ref.ID = similar(ref.ID)
	if got, err := x.groups().DescribePlacement(x.ctx, ref); !errors.Is(err, backend.ErrNotFound) {
		t.Errorf("DescribePlacement(%s) = %+v, %v, want ErrNotFound", ref.ID, got, err)
	}
	if err := x.groups().DeletePlacement(x.ctx, ref); err != nil && !errors.Is(err, backend.ErrNotFound) {
		t.Errorf("DeletePlacement(%s) = %v, want nil or ErrNotFound", ref.ID, err)
	}
	x.usable(t, p.Ref)
}

func placementCancelled(t *testing.T, x *session) {
	ctx, cancel := context.WithCancel(x.ctx)
	cancel()
	if _, err := x.groups().CreatePlacement(ctx, placementOf(x.joining(t))); err == nil || backend.Refused(err) || errors.Is(err, backend.ErrNotFound) {
		t.Errorf("CreatePlacement with an ended context = %v, want an error that leaves the outcome open", err)
	}
}

func lostPlacementReply(t *testing.T, x *session) {
	req := placementOf(x.joining(t))
	x.wire.breakWrites(lose)
	if _, err := x.groups().CreatePlacement(x.ctx, req); proves(err) {
		t.Errorf("CreatePlacement with a lost reply = %v, want an error that leaves the outcome open", err)
	}
	x.wire.heal()
	first, err := x.groups().CreatePlacement(x.ctx, req)
	if err != nil {
		t.Fatalf("CreatePlacement with the same token afterwards: %v", err)
	}
	again, err := x.groups().CreatePlacement(x.ctx, req)
	if err != nil || again.Ref.ID != first.Ref.ID {
		t.Errorf("CreatePlacement once more = %s, %v, want %s", again.Ref.ID, err, first.Ref.ID)
	}
}

func lostDeletePlacementReply(t *testing.T, x *session) {
	_, p := x.createPlacement(t)
	x.wire.breakWrites(lose)
	if err := x.groups().DeletePlacement(x.ctx, p.Ref); proves(err) {
		t.Errorf("DeletePlacement with a lost reply = %v, want an error that leaves the outcome open", err)
	}
	x.wire.heal()
	x.endPlacement(t, p.Ref)
}
