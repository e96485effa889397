package backendtest

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"dstack/internal/backend"
	"dstack/internal/offer"
)

// attempt is one call of the contract, with its error alone.
type attempt struct {
	name  string
	run   func(ctx context.Context) error
	quiet bool // many providers answer it with nothing
}

// attempts are all calls, about an instance that exists.
func (x *session) attempts(ref backend.Ref) []attempt {
	all := []attempt{
		{name: "Create", run: func(ctx context.Context) error { _, err := x.ask(ctx, x.request()); return err }},
		{name: "Describe", run: func(ctx context.Context) error { _, err := x.Backend.Describe(ctx, ref); return err }},
		{name: "Terminate", run: func(ctx context.Context) error { return x.Backend.Terminate(ctx, ref) }, quiet: true},
		{name: "List", run: func(ctx context.Context) error { _, err := x.Backend.List(ctx, serverID); return err }},
		{name: "Offers", run: func(ctx context.Context) error { _, err := x.Backend.Offers(ctx, offer.Query{}); return err }},
	}
	if p, ok := x.Backend.(backend.PlacementBackend); ok {
		all = append(all,
			attempt{name: "CreatePlacement", run: func(ctx context.Context) error { _, err := p.CreatePlacement(ctx, placementOf(x.offer)); return err }},
			attempt{name: "DescribePlacement", run: func(ctx context.Context) error { _, err := p.DescribePlacement(ctx, ref); return err }},
			attempt{name: "DeletePlacement", run: func(ctx context.Context) error { return p.DeletePlacement(ctx, ref) }, quiet: true})
	}
	return all
}

// lostCreateReply makes the instance and loses the answer.
func lostCreateReply(t *testing.T, x *session) {
	req := x.request()
	x.wire.breakWrites(lose)
	if _, err := x.ask(x.ctx, req); proves(err) {
		t.Errorf("Create with a lost reply = %v, want an error that leaves the outcome open", err)
	}
	x.wire.heal()
	first, err := x.ask(x.ctx, req)
	if err != nil {
		t.Fatalf("Create with the same token afterwards: %v", err)
	}
	x.listed(t, first.Ref)
	owned, err := x.Backend.List(x.ctx, serverID)
	if err != nil || len(owned) != 1 {
		t.Errorf("List = %v, %v, want the one instance", owned, err)
	}
}

func lostTerminateReply(t *testing.T, x *session) {
	_, inst := x.create(t)
	x.wire.breakWrites(lose)
	if err := x.Backend.Terminate(x.ctx, inst.Ref); proves(err) {
		t.Errorf("Terminate with a lost reply = %v, want an error that leaves the outcome open", err)
	}
	x.wire.heal()
	x.end(t, inst.Ref)
}

func serverError(t *testing.T, x *session) {
	_, inst := x.create(t)
	for _, status := range []int{500, 502, 503, 504} {
		x.wire.breakWrites(says(status, `{}`))
		if _, err := x.ask(x.ctx, x.request()); proves(err) {
			t.Errorf("Create answered with %d = %v, want an error that leaves the outcome open", status, err)
		}
		x.wire.heal()
	}
	x.wire.breakAll(says(http.StatusInternalServerError, `{}`))
	for _, a := range x.attempts(inst.Ref) {
		if err := a.run(x.ctx); proves(err) {
			t.Errorf("%s answered with 500 = %v, want an error that proves nothing", a.name, err)
		}
	}
}

// retryAfter is longer than the transport waits by itself, in seconds.
const retryAfter = "3600"

func tooManyRequests(t *testing.T, x *session) {
	_, inst := x.create(t)
	limited := answer(http.StatusTooManyRequests, http.Header{"Retry-After": {retryAfter}}, strings.NewReader(""))
	x.wire.breakWrites(limited)
	_, err := x.ask(x.ctx, x.request())
	checkLimit(t, "Create at its write", err)
	x.wire.breakAll(limited)
	for _, a := range x.attempts(inst.Ref) {
		checkLimit(t, a.name, a.run(x.ctx))
	}
}

func checkLimit(t *testing.T, call string, err error) {
	t.Helper()
	limit, ok := errors.AsType[*backend.RateLimitedError](err)
	if !ok {
		t.Errorf("%s answered with 429 = %v, want *RateLimitedError", call, err)
	} else if limit.After != time.Hour {
		t.Errorf("%s: RateLimitedError.After = %v, the answer said %s s", call, limit.After, retryAfter)
	}
}

// nonsense answers with success and something that is not the provider's.
func nonsense(t *testing.T, x *session) {
	_, inst := x.create(t)
	for _, body := range []string{"<html>Welcome to the hotel's network</html>", "", `{"data": [`, "42", `{}`} {
		for _, a := range x.attempts(inst.Ref) {
			if a.quiet {
				continue
			}
			if body == `{}` && (a.name == "List" || a.name == "Offers") {
				continue // some providers leave empty lists out
			}
			x.wire.breakAll(says(http.StatusOK, body))
			if err := a.run(x.ctx); proves(err) {
				t.Errorf("%s answered with %q = %v, want an error that proves nothing", a.name, body, err)
			}
		}
	}
	x.wire.heal()
	if got, err := x.Backend.Describe(x.ctx, inst.Ref); err != nil || got.Ref.ID != inst.Ref.ID {
		t.Errorf("afterwards, Describe = %+v, %v", got, err)
	}
}

// slowBody answers only the first bytes; the caller's deadline has to hold.
func slowBody(t *testing.T, x *session) {
	_, inst := x.create(t)
	x.wire.breakAll(trickle)
	for _, a := range x.attempts(inst.Ref) {
		ctx, cancel := context.WithTimeout(x.ctx, 100*time.Millisecond)
		began := time.Now()
		err := a.run(ctx)
		cancel()
		if d := time.Since(began); proves(err) || d > 5*time.Second {
			t.Errorf("%s with a body that stops = %v after %v, want an error that proves nothing, soon", a.name, err, d)
		}
	}
}

func endlessBody(t *testing.T, x *session) {
	_, inst := x.create(t)
	for _, a := range x.attempts(inst.Ref) {
		body := &endless{}
		x.wire.breakAll(answer(http.StatusOK, http.Header{}, body))
		if err := a.run(x.ctx); !a.quiet && proves(err) {
			t.Errorf("%s with an endless answer = %v, want an error that proves nothing", a.name, err)
		}
		if body.swamped {
			t.Errorf("%s reads more than %d bytes of an answer", a.name, patientBytes)
		}
	}
}

// longestCall is the longest that any call may take when the provider does not answer: the
// ledger's own deadline for a Create.
const longestCall = 5 * time.Minute

// deadlines are the tests that take virtual time.
func deadlines(t *testing.T, open Open) []test {
	t.Helper()
	if !open(t, &breaker{next: http.DefaultTransport}).Transport {
		return nil
	}
	return []test{{"SilenceIsGivenUp", silenceIsGivenUp}}
}

// silenceIsGivenUp calls without a deadline: the backend has its own.
func silenceIsGivenUp(t *testing.T, x *session) {
	_, inst := x.create(t)
	for name, how := range map[string]breakage{"no answer": hang, "half an answer": trickle} {
		x.wire.breakAll(how)
		for _, a := range x.attempts(inst.Ref) {
			began := time.Now()
			err := a.run(context.Background())
			if d := time.Since(began); proves(err) || d > longestCall {
				t.Errorf("%s with %s = %v after %v, want an error that proves nothing within %v", a.name, name, err, d, longestCall)
			}
		}
	}
}
