// Package backendtest states the contract of package backend as tests. A backend's test is
// one call of [Run] with a double of its provider: see package fake for the smallest.
package backendtest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"dstack/internal/backend"
	"dstack/internal/offer"
)

// Subject is what the suite runs against.
type Subject struct {
	Backend backend.Backend
	// Foreign makes a resource at the double that does not carry our tags and returns its
	// ref; nil skips the tests about foreign resources.
	Foreign func(t *testing.T) backend.Ref
	// BadAuth opens the same backend with wrong credentials; nil skips the test.
	BadAuth func(t *testing.T) backend.Backend
	// Transport is true when the backend speaks HTTP through the transport that it was given,
	// so that the suite can break it.
	Transport bool
	// Patience bounds how long states may take to appear at the double; 0 means 5 s.
	Patience time.Duration
}

const serverID = "5e54e51d-0000-4000-8000-000000000001"

// Run runs the suite. open returns a backend on a fresh double whose HTTP goes through
// transport.
func Run(t *testing.T, open func(t *testing.T, transport http.RoundTripper) Subject) {
	s := suite{open: open}
	for _, test := range []struct {
		name string
		run  func(*testing.T, *session)
	}{
		{"OffersAreComplete", offersAreComplete},
		{"OffersHonourRegions", offersHonourRegions},
		{"CreateReturnsARef", createReturnsARef},
		{"CreateIsIdempotentInToken", createIsIdempotentInToken},
		{"CreateTokensAreSeparate", createTokensAreSeparate},
		{"CreateBecomesReady", createBecomesReady},
		{"DescribeUnknownIsNotFound", describeUnknown},
		{"TerminateEndsIt", terminateEndsIt},
		{"TerminateIsIdempotent", terminateIsIdempotent},
		{"TerminateUnknownIsHarmless", terminateUnknown},
		{"ListShowsOwnOnly", listShowsOwnOnly},
		{"ListCarriesIntentAndName", listCarriesIntent},
		{"ForeignIsNeverListed", foreignIsNeverListed},
		{"CancelledContextIsNoRefusal", cancelledContext},
		{"BadCredentialsAreErrAuth", badCredentials},
		{"LostReplyIsNoRefusal", lostReply},
		{"ServerErrorIsNoRefusal", serverError},
		{"TooManyRequestsIsARefusal", tooManyRequests},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, s.begin(t)) })
	}
}

type suite struct {
	open func(*testing.T, http.RoundTripper) Subject
}

// session is one subtest with a fresh double.
type session struct {
	Subject
	ctx   context.Context
	wire  *breaker
	offer offer.Offer
}

func (s suite) begin(t *testing.T) *session {
	t.Helper()
	wire := &breaker{next: http.DefaultTransport}
	sub := s.open(t, wire)
	if sub.Patience == 0 {
		sub.Patience = 5 * time.Second
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	x := &session{Subject: sub, ctx: ctx, wire: wire}
	offers, err := sub.Backend.Offers(ctx, offer.Query{})
	if err != nil {
		t.Fatalf("Offers: %v", err)
	}
	i := slices.IndexFunc(offers, func(o offer.Offer) bool { return o.Availability.Usable() })
	if i < 0 {
		t.Fatalf("Offers: none of %d is usable; the double has to have one", len(offers))
	}
	x.offer = offers[i]
	return x
}

func (x *session) request() backend.CreateRequest {
	token := uuid.NewString()
	return backend.CreateRequest{
		Token: token, Name: "dstack-main-test-" + token[:8], Project: "main", Fleet: "test", Offer: x.offer, PublicIP: true,
		Tags: map[string]string{
			backend.TagServer: serverID, backend.TagIntent: token, backend.TagProject: "main",
			backend.TagFleet: "test", backend.TagName: "test-0",
		},
		SSHKeys: []string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDSUCLfN1ThKDHDHM3mSfJXUPNHwUAvYOAIxTyMjbeOq test"},
	}
}

func (x *session) create(t *testing.T) (backend.CreateRequest, backend.Instance) {
	t.Helper()
	req := x.request()
	inst, err := x.Backend.Create(x.ctx, req)
	if err != nil {
		t.Fatalf("Create: %v", err)
	}
	return req, inst
}

// eventually asks until done returns "" and fails with its last answer.
func (x *session) eventually(t *testing.T, done func() string) {
	t.Helper()
	deadline := time.Now().Add(x.Patience)
	for pause := time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		problem := done()
		if problem == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s (after %s)", problem, x.Patience)
		}
		select {
		case <-time.After(pause):
		case <-x.ctx.Done():
			t.Fatalf("%s: %v", problem, x.ctx.Err())
		}
	}
}

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
		again, err := x.Backend.Create(x.ctx, req)
		if err != nil {
			t.Fatalf("Create with the same token again: %v", err)
		}
		if again.Ref.ID != first.Ref.ID {
			t.Errorf("Create with one token made %s and %s", first.Ref.ID, again.Ref.ID)
		}
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
	x.eventually(t, func() string {
		owned, err := x.Backend.List(x.ctx, serverID)
		if err != nil {
			return fmt.Sprintf("List: %v", err)
		}
		for _, o := range owned {
			if o.Ref.ID == inst.Ref.ID && o.State != backend.StateGone {
				return fmt.Sprintf("a terminated instance is listed as %s", o.State)
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

func foreignIsNeverListed(t *testing.T, x *session) {
	if x.Foreign == nil {
		t.Skip("the double has no foreign resources")
	}
	foreign := x.Foreign(t)
	_, inst := x.create(t)
	x.listed(t, inst.Ref)
	owned, err := x.Backend.List(x.ctx, serverID)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range owned {
		if o.Ref.ID == foreign.ID {
			t.Errorf("foreign resource %s is listed as ours", foreign.ID)
		}
	}
}

func cancelledContext(t *testing.T, x *session) {
	ctx, cancel := context.WithCancel(x.ctx)
	cancel()
	if _, err := x.Backend.Create(ctx, x.request()); err == nil || backend.Refused(err) || errors.Is(err, backend.ErrNotFound) {
		t.Errorf("Create with an ended context = %v, want an error that leaves the outcome open", err)
	}
}

func badCredentials(t *testing.T, x *session) {
	if x.BadAuth == nil {
		t.Skip("the double accepts everybody")
	}
	b := x.BadAuth(t)
	if _, err := b.Create(x.ctx, x.request()); !errors.Is(err, backend.ErrAuth) {
		t.Errorf("Create = %v, want ErrAuth", err)
	}
	if c, ok := b.(backend.CheckBackend); ok {
		if err := c.Check(x.ctx); !errors.Is(err, backend.ErrAuth) {
			t.Errorf("Check = %v, want ErrAuth", err)
		}
	}
}
