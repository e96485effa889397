// Package backendtest states the contract of package backend as tests. A backend's test is
// one call of [Run] or [RunVirtual] with a double of its provider: see package fake for the
// smallest and package lambda for one behind HTTP. What production teaches becomes a
// subtest here first.
package backendtest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"dstack/internal/backend"
	"dstack/internal/offer"
)

// Subject is what the suite runs against.
type Subject struct {
	Backend backend.Backend
	// Foreign makes an instance at the double that does not carry our tags and returns its ref.
	Foreign func(t *testing.T) backend.Ref
	// BadAuth opens the same backend with wrong credentials; nil when it has none.
	BadAuth func(t *testing.T) backend.Backend
	// Transport is true when the backend speaks HTTP through the transport that it was given,
	// so that the suite can break it.
	Transport bool
	// Handler is the double of a backend that speaks HTTP, to be called in memory; nil when it
	// listens somewhere. RunVirtual needs it, as virtual time stands still on a socket.
	Handler http.Handler
	// Invent makes the double report a state of an instance that no document knows; nil when
	// the provider's states are ours.
	Invent func(t *testing.T, ref backend.Ref)
	// Leftovers counts what [backend.TidyBackend] has to tidy at the double: required of
	// those.
	Leftovers func() int
	// Reserve makes the double have a reservation with room for n instances of an offer, in one
	// part, and returns its name: required of [backend.ReservationBackend].
	Reserve func(t *testing.T, o offer.Offer, n int) (name string)
	// Many is how many instances fill more than one page of the provider's lists; 0 means 3.
	Many int
	// Patience bounds how long states may take to appear at the double; 0 means 5 s, and an
	// hour of virtual time.
	Patience time.Duration
}

// Open returns a backend on a fresh double whose HTTP goes through transport.
type Open func(t *testing.T, transport http.RoundTripper) Subject

const serverID = "5e54e51d-0000-4000-8000-000000000001"

// Run runs the suite in real time.
func Run(t *testing.T, open Open) {
	for _, test := range applicable(t, open) {
		t.Run(test.name, func(t *testing.T) { test.run(t, begin(t, open, 5*time.Second)) })
	}
}

// RunVirtual runs the suite in virtual time, each test in a bubble of its own, so that
// providers may be slow and limits long. It has tests of deadlines that Run has not.
func RunVirtual(t *testing.T, open Open) {
	for _, test := range append(applicable(t, open), deadlines(t, open)...) {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test.run(t, begin(t, open, time.Hour)) })
		})
	}
}

type test struct {
	name string
	run  func(*testing.T, *session)
}

// contract is for every backend.
var contract = []test{
	{"OffersAreComplete", offersAreComplete},
	{"OffersHonourRegions", offersHonourRegions},
	{"CreateReturnsARef", createReturnsARef},
	{"CreateIsIdempotentInToken", createIsIdempotentInToken},
	{"CreateAtOnceIsIdempotentToo", createAtOnce},
	{"CreateTokensAreSeparate", createTokensAreSeparate},
	{"CreateBecomesReady", createBecomesReady},
	{"CreateInUnknownRegionIsRefused", createInUnknownRegion},
	{"DescribeUnknownIsNotFound", describeUnknown},
	{"DescribeTellsWhoseItIs", describeTellsWhose},
	{"TerminateEndsIt", terminateEndsIt},
	{"TerminateIsIdempotent", terminateIsIdempotent},
	{"TerminateUnknownIsHarmless", terminateUnknown},
	{"ListShowsOwnOnly", listShowsOwnOnly},
	{"ListShowsWhatIsStillPending", listShowsPending},
	{"ListShowsAll", listShowsAll},
	{"ListCarriesIntentAndName", listCarriesIntent},
	{"ForeignIsNeverListedNorTouched", foreignIsNeverTouched},
	{"CancelledContextIsNoRefusal", cancelledContext},
}

// wire is for backends that speak HTTP.
var wire = []test{
	{"LostCreateReplyIsNoRefusal", lostCreateReply},
	{"LostTerminateReplyIsNoEnd", lostTerminateReply},
	{"ServerErrorProvesNothing", serverError},
	{"TooManyRequestsIsRateLimited", tooManyRequests},
	{"NonsenseProvesNothing", nonsense},
	{"OneStrangeRowIsThatRowsMatter", strangeRow},
	{"OwnRowStrangeProvesNothing", ownRowStrange},
	{"SlowBodyProvesNothing", slowBody},
	{"BodiesAreBounded", endlessBody},
}

// applicable is the part of the suite that a subject can be asked for. It opens one to see.
func applicable(t *testing.T, open Open) []test {
	t.Helper()
	sub := open(t, &breaker{next: http.DefaultTransport})
	if sub.Foreign == nil {
		t.Fatal("Subject.Foreign is required")
	}
	all := slices.Clone(contract)
	if sub.BadAuth != nil {
		all = append(all, test{"BadCredentialsAreErrAuth", badCredentials})
	}
	if _, ok := sub.Backend.(backend.CheckBackend); ok {
		all = append(all, test{"CheckTakesGoodCredentials", goodCredentials})
	}
	if _, ok := sub.Backend.(backend.AccountBackend); ok {
		all = append(all, test{"AccountTellsCredentialsApart", accountTellsApart})
	}
	if sub.Invent != nil {
		all = append(all, test{"UnknownStateProvesNothing", unknownState})
	}
	if _, ok := sub.Backend.(backend.TidyBackend); ok {
		if sub.Leftovers == nil {
			t.Fatal("Subject.Leftovers is required of a TidyBackend")
		}
		all = append(all, test{"TidyLeavesNothing", tidyLeavesNothing})
	}
	if _, ok := sub.Backend.(backend.ReservationBackend); ok {
		if sub.Reserve == nil {
			t.Fatal("Subject.Reserve is required of a ReservationBackend")
		}
		all = append(all, reservation...)
	}
	if _, ok := sub.Backend.(backend.RankedBackend); ok {
		all = append(all, test{"RankedOffersKeepTheirOrder", rankedKeepsOrder})
	}
	_, groups := sub.Backend.(backend.PlacementBackend)
	if groups {
		all = append(all, placement...)
	}
	if sub.Transport {
		all = append(all, wire...)
	}
	if sub.Transport && groups {
		all = append(all, placementWire...)
	}
	return all
}

// session is one subtest with a fresh double.
type session struct {
	Subject
	ctx   context.Context
	wire  *breaker
	offer offer.Offer
}

func begin(t *testing.T, open Open, patience time.Duration) *session {
	t.Helper()
	wire := &breaker{next: http.DefaultTransport}
	sub := open(t, wire)
	if sub.Handler != nil {
		wire.next = direct{sub.Handler}
	}
	if sub.Patience == 0 {
		sub.Patience = patience
	}
	if sub.Many == 0 {
		sub.Many = 3
	}
	ctx, cancel := context.WithTimeout(context.Background(), 12*patience)
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
	inst, err := x.ask(x.ctx, req)
	if err != nil {
		t.Fatalf("Create: %v", err)
	}
	return req, inst
}

// ask is Create that comes back when the backend says that it is not its turn, as the ledger does.
func (x *session) ask(ctx context.Context, req backend.CreateRequest) (backend.Instance, error) {
	for tries := 0; tries < maxTurns; {
		inst, err := x.Backend.Create(ctx, req)
		limit, ok := errors.AsType[*backend.RateLimitedError](err)
		if !ok || limit.After == 0 || !limit.Queued && limit.After > longestTurn {
			return inst, err
		}
		if !limit.Queued {
			tries++
		}
		select {
		case <-time.After(limit.After):
		case <-ctx.Done():
			return inst, context.Cause(ctx)
		}
	}
	return backend.Instance{}, fmt.Errorf("no turn after %d tries", maxTurns)
}

const (
	longestTurn = 2 * time.Minute // what the ledger waits for
	maxTurns    = 5
)

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
