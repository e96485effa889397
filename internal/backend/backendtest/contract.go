package backendtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"dstack/internal/backend"
	"dstack/internal/offer"
)

func offersAreComplete(t *testing.T, x *session) {
	offers, err := x.Backend.Offers(x.ctx, offer.Query{})
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range offers {
		var missing []string
		for field, bad := range map[string]bool{
			"Backend": o.Backend == "", "Region": o.Region == "", "Instance": o.Instance == "",
			"Price": o.Price < 0, "Availability": o.Availability == "",
			"Resources.CPUs": o.Resources.CPUs <= 0, "Resources.MemoryMiB": o.Resources.MemoryMiB <= 0,
		} {
			if bad {
				missing = append(missing, field)
			}
		}
		for _, g := range o.Resources.GPUs {
			if g.Name == "" || g.Vendor == "" || g.MemoryMiB <= 0 {
				missing = append(missing, fmt.Sprintf("GPU %+v", g))
			}
		}
		if len(missing) > 0 {
			slices.Sort(missing)
			t.Errorf("offer %s in %s: empty or wrong: %s", o.Instance, o.Region, strings.Join(missing, ", "))
		}
	}
}

func offersHonourRegions(t *testing.T, x *session) {
	offers, err := x.Backend.Offers(x.ctx, offer.Query{Regions: []string{x.offer.Region}})
	if err != nil {
		t.Fatal(err)
	}
	if len(offers) == 0 {
		t.Errorf("no offers in %s, which had one", x.offer.Region)
	}
	for _, o := range offers {
		if o.Region != x.offer.Region {
			t.Errorf("asked for %s, offered %s in %s", x.offer.Region, o.Instance, o.Region)
		}
	}
}

func createReturnsARef(t *testing.T, x *session) {
	_, inst := x.create(t)
	if inst.Ref.ID == "" || inst.State == "" {
		t.Errorf("Create = %+v: Ref.ID and State are required", inst)
	}
	if inst.Ref.Region != x.offer.Region {
		t.Errorf("created in %q, offered in %q", inst.Ref.Region, x.offer.Region)
	}
}

func createIsIdempotentInToken(t *testing.T, x *session) {
	req, first := x.create(t)
	for range 2 {
		again, err := x.ask(x.ctx, req)
		if err != nil {
			t.Fatalf("Create with the same token again: %v", err)
		}
		if again.Ref.ID != first.Ref.ID {
			t.Errorf("Create with one token made %s and %s", first.Ref.ID, again.Ref.ID)
		}
	}
}

func createAtOnce(t *testing.T, x *session) {
	req := x.request()
	ids, errs := make([]string, 3), make([]error, 3)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			inst, err := x.ask(x.ctx, req)
			ids[i], errs[i] = inst.Ref.ID, err
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("Create three times at once: %v", err)
	}
	if ids[0] != ids[1] || ids[0] != ids[2] {
		t.Errorf("Create with one token three times at once made %q", ids)
	}
}

func createInUnknownRegion(t *testing.T, x *session) {
	req := x.request()
	req.Offer.Region = "nowhere-9"
	if _, err := x.ask(x.ctx, req); !backend.Refused(err) {
		t.Errorf("Create in a region that does not exist = %v, want a refusal", err)
	}
	if owned, err := x.Backend.List(x.ctx, serverID); err != nil || len(owned) != 0 {
		t.Errorf("List = %v, %v, want nothing", owned, err)
	}
}

func createTokensAreSeparate(t *testing.T, x *session) {
	_, a := x.create(t)
	_, b := x.create(t)
	if a.Ref.ID == b.Ref.ID {
		t.Errorf("two tokens, one instance %s", a.Ref.ID)
	}
}

func createBecomesReady(t *testing.T, x *session) {
	_, inst := x.create(t)
	x.eventually(t, func() string {
		got, err := x.Backend.Describe(x.ctx, inst.Ref)
		switch {
		case err != nil:
			return fmt.Sprintf("Describe: %v", err)
		case !got.Ready():
			return fmt.Sprintf("instance is %s with host name %q, want running with one", got.State, got.Hostname)
		case got.Socket == "" && got.Username == "":
			return "a running instance says nobody to log in as"
		}
		return ""
	})
}

func describeUnknown(t *testing.T, x *session) {
	_, inst := x.create(t)
	ref := inst.Ref
	ref.ID = similar(ref.ID)
	if got, err := x.Backend.Describe(x.ctx, ref); !errors.Is(err, backend.ErrNotFound) {
		t.Errorf("Describe(%s) = %+v, %v, want ErrNotFound", ref.ID, got, err)
	}
}

// describeTellsWhose: what a Create named is believed when Describe shows it with its mark.
func describeTellsWhose(t *testing.T, x *session) {
	foreign := x.Foreign(t)
	req, inst := x.create(t)
	x.eventually(t, func() string {
		got, err := x.Backend.Describe(x.ctx, inst.Ref)
		if err != nil || !got.Of(req.Token, req.Name) {
			return fmt.Sprintf("Describe = intent %q, name %q, %v, want intent %q or name %q", got.IntentID, got.Name, err, req.Token, req.Name)
		}
		return ""
	})
	got, err := x.Backend.Describe(x.ctx, foreign)
	if err == nil && got.Of(req.Token, req.Name) || err != nil && !errors.Is(err, backend.ErrNotFound) {
		t.Errorf("Describe of a foreign instance = intent %q, name %q, %v", got.IntentID, got.Name, err)
	}
}

func accountTellsApart(t *testing.T, x *session) {
	account := backend.AccountOf(x.Backend)
	if account == "" || account != backend.AccountOf(x.Backend) {
		t.Errorf("Account = %q, then %q", account, backend.AccountOf(x.Backend))
	}
	if x.BadAuth != nil && backend.AccountOf(x.BadAuth(t)) == account {
		t.Errorf("two credentials with the account %q", account)
	}
}

// similar changes the last digit or letter of an id, so that it stays well-formed.
func similar(id string) string {
	last := id[len(id)-1]
	swap := byte('0')
	if last == '0' {
		swap = '1'
	}
	return id[:len(id)-1] + string(swap)
}

func (x *session) end(t *testing.T, ref backend.Ref) {
	t.Helper()
	x.eventually(t, func() string {
		if err := x.Backend.Terminate(x.ctx, ref); err != nil && !errors.Is(err, backend.ErrNotFound) {
			return fmt.Sprintf("Terminate: %v", err)
		}
		got, err := x.Backend.Describe(x.ctx, ref)
		if errors.Is(err, backend.ErrNotFound) || err == nil && got.State == backend.StateGone {
			return ""
		}
		return fmt.Sprintf("after Terminate, Describe = %s, %v", got.State, err)
	})
}

func terminateEndsIt(t *testing.T, x *session) {
	_, inst := x.create(t)
	x.end(t, inst.Ref)
	x.unlisted(t, "a terminated instance", inst.Ref)
}

// unlisted waits until a resource that was deleted is not listed as if it were there.
func (x *session) unlisted(t *testing.T, what string, ref backend.Ref) {
	t.Helper()
	x.eventually(t, func() string {
		owned, err := x.Backend.List(x.ctx, serverID)
		if err != nil {
			return fmt.Sprintf("List: %v", err)
		}
		for _, o := range owned {
			if o.Ref.ID == ref.ID && o.State != backend.StateGone {
				return fmt.Sprintf("%s is listed as %s", what, o.State)
			}
		}
		return ""
	})
}

func terminateIsIdempotent(t *testing.T, x *session) {
	_, inst := x.create(t)
	x.end(t, inst.Ref)
	for range 2 {
		if err := x.Backend.Terminate(x.ctx, inst.Ref); err != nil && !errors.Is(err, backend.ErrNotFound) {
			t.Errorf("Terminate of what is gone: %v, want nil or ErrNotFound", err)
		}
	}
}

func terminateUnknown(t *testing.T, x *session) {
	_, inst := x.create(t)
	ref := inst.Ref
	ref.ID = similar(ref.ID)
	if err := x.Backend.Terminate(x.ctx, ref); err != nil && !errors.Is(err, backend.ErrNotFound) {
		t.Errorf("Terminate(%s) = %v, want nil or ErrNotFound", ref.ID, err)
	}
	if got, err := x.Backend.Describe(x.ctx, inst.Ref); err != nil || got.State == backend.StateGone || got.State == backend.StateDeleting {
		t.Errorf("the neighbour of a terminated id is %s, %v", got.State, err)
	}
}

func (x *session) listed(t *testing.T, ref backend.Ref) backend.Owned {
	t.Helper()
	var found backend.Owned
	x.eventually(t, func() string {
		owned, err := x.Backend.List(x.ctx, serverID)
		if err != nil {
			return fmt.Sprintf("List: %v", err)
		}
		for _, o := range owned {
			if o.Ref.ID == ref.ID && o.Kind == backend.InstanceResource {
				found = o
				return ""
			}
		}
		return fmt.Sprintf("instance %s is not listed", ref.ID)
	})
	return found
}

func listShowsOwnOnly(t *testing.T, x *session) {
	_, inst := x.create(t)
	x.listed(t, inst.Ref)
	owned, err := x.Backend.List(x.ctx, "another-server")
	if err != nil || len(owned) != 0 {
		t.Errorf("List of another server = %v, %v, want nothing", owned, err)
	}
}

func listCarriesIntent(t *testing.T, x *session) {
	req, inst := x.create(t)
	o := x.listed(t, inst.Ref)
	if o.IntentID != req.Token && o.Name != req.Name {
		t.Errorf("listed with intent %q and name %q, want intent %q or name %q", o.IntentID, o.Name, req.Token, req.Name)
	}
	if o.State == "" {
		t.Error("listed without state")
	}
	if got, err := x.Backend.Describe(x.ctx, o.Ref); err != nil || got.Ref.ID != inst.Ref.ID {
		t.Errorf("the listed ref leads to %s, %v", got.Ref.ID, err)
	}
}

func listShowsPending(t *testing.T, x *session) {
	_, inst := x.create(t)
	if o := x.listed(t, inst.Ref); o.State == backend.StateGone || o.State == backend.StateFailed {
		t.Errorf("what was just asked for is listed as %s", o.State)
	}
}

func listShowsAll(t *testing.T, x *session) {
	made := map[string]bool{}
	for range x.Many {
		_, inst := x.create(t)
		made[inst.Ref.ID] = true
	}
	x.eventually(t, func() string {
		owned, err := x.Backend.List(x.ctx, serverID)
		if err != nil {
			return fmt.Sprintf("List: %v", err)
		}
		listed := map[string]int{}
		for _, o := range owned {
			if made[o.Ref.ID] {
				listed[o.Ref.ID]++
			}
		}
		for id, n := range listed {
			if n > 1 {
				return fmt.Sprintf("instance %s is listed %d times", id, n)
			}
		}
		if len(listed) < len(made) {
			return fmt.Sprintf("%d of %d instances are listed: is every page read?", len(listed), len(made))
		}
		return ""
	})
}

func foreignIsNeverTouched(t *testing.T, x *session) {
	foreign := x.Foreign(t)
	_, inst := x.create(t)
	x.listed(t, inst.Ref)
	for _, server := range []string{serverID, ""} {
		owned, err := x.Backend.List(x.ctx, server)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range owned {
			if o.Ref.ID == foreign.ID {
				t.Errorf("foreign resource %s is listed as of server %q", foreign.ID, server)
			}
		}
	}
	x.end(t, inst.Ref)
	if tidy, ok := x.Backend.(backend.TidyBackend); ok {
		if err := tidy.Tidy(x.ctx, serverID); err != nil {
			t.Errorf("Tidy: %v", err)
		}
	}
	if got, err := x.Backend.Describe(x.ctx, foreign); err != nil || got.State == backend.StateGone || got.State == backend.StateDeleting {
		t.Errorf("the foreign resource is %s, %v afterwards", got.State, err)
	}
}

func tidyLeavesNothing(t *testing.T, x *session) {
	tidy := func(server string) {
		t.Helper()
		if err := x.Backend.(backend.TidyBackend).Tidy(x.ctx, server); err != nil {
			t.Fatalf("Tidy of %q: %v", server, err)
		}
	}
	before := x.Leftovers()
	_, inst := x.create(t)
	during := x.Leftovers()
	if during == before {
		t.Fatalf("an instance needs %d extra things; the double does not count them", during-before)
	}
	tidy(serverID)
	tidy("another-server")
	if n := x.Leftovers(); n != during {
		t.Errorf("Tidy left %d of %d things of a live instance", n, during)
	}
	x.end(t, inst.Ref)
	tidy("another-server")
	tidy("")
	if n := x.Leftovers(); n != during {
		t.Errorf("Tidy of other servers left %d of our %d things", n, during)
	}
	x.eventually(t, func() string {
		tidy(serverID)
		if n := x.Leftovers(); n != before {
			return fmt.Sprintf("%d things are left after the last instance, had %d before it", n, before)
		}
		return ""
	})
	x.create(t) // what was tidied is made again
}

func unknownState(t *testing.T, x *session) {
	_, inst := x.create(t)
	x.Invent(t, inst.Ref)
	got, err := x.Backend.Describe(x.ctx, inst.Ref)
	if err == nil && got.State != backend.StatePending && got.State != backend.StateRunning || errors.Is(err, backend.ErrNotFound) {
		t.Errorf("Describe in a state that nobody knows = %s, %v: it must not look ended", got.State, err)
	}
	if o := x.listed(t, inst.Ref); o.State == backend.StateGone || o.State == backend.StateFailed {
		t.Errorf("listed as %s in a state that nobody knows", o.State)
	}
}

func cancelledContext(t *testing.T, x *session) {
	ctx, cancel := context.WithCancel(x.ctx)
	cancel()
	if _, err := x.ask(ctx, x.request()); err == nil || backend.Refused(err) || errors.Is(err, backend.ErrNotFound) {
		t.Errorf("Create with an ended context = %v, want an error that leaves the outcome open", err)
	}
}

func goodCredentials(t *testing.T, x *session) {
	if err := x.Backend.(backend.CheckBackend).Check(x.ctx); err != nil {
		t.Errorf("Check = %v", err)
	}
}

func badCredentials(t *testing.T, x *session) {
	_, inst := x.create(t)
	b := x.BadAuth(t)
	_, creating := b.Create(x.ctx, x.request())
	_, describing := b.Describe(x.ctx, inst.Ref)
	_, listing := b.List(x.ctx, serverID)
	answers := map[string]error{"Create": creating, "Describe": describing, "List": listing, "Terminate": b.Terminate(x.ctx, inst.Ref)}
	if c, ok := b.(backend.CheckBackend); ok {
		answers["Check"] = c.Check(x.ctx)
	}
	for call, err := range answers {
		if !errors.Is(err, backend.ErrAuth) {
			t.Errorf("%s = %v, want ErrAuth", call, err)
		}
	}
	if got, err := x.Backend.Describe(x.ctx, inst.Ref); err != nil || got.State == backend.StateGone || got.State == backend.StateDeleting {
		t.Errorf("wrong credentials did something: the instance is %s, %v", got.State, err)
	}
}
