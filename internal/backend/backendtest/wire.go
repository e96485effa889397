package backendtest

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"dstack/internal/backend"
)

var errReset = errors.New("connection reset by peer")

// breaker is a transport that fails on demand.
type breaker struct {
	next http.RoundTripper
	mu   sync.Mutex
	how  func(*http.Request, http.RoundTripper) (*http.Response, error)
}

// RoundTrip implements http.RoundTripper.
func (b *breaker) RoundTrip(r *http.Request) (*http.Response, error) {
	b.mu.Lock()
	how := b.how
	b.mu.Unlock()
	if how == nil || r.Method == http.MethodGet || r.Method == http.MethodHead {
		return b.next.RoundTrip(r)
	}
	return how(r, b.next)
}

// fail breaks all requests that change something, until it is called with nil.
func (b *breaker) fail(how func(*http.Request, http.RoundTripper) (*http.Response, error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.how = how
}

func answer(r *http.Request, status int, header http.Header) *http.Response {
	if r.Body != nil {
		_ = r.Body.Close() // as a transport must
	}
	return &http.Response{
		Status: http.StatusText(status), StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Body: io.NopCloser(strings.NewReader(`{}`)), Request: r,
	}
}

func (x *session) needWire(t *testing.T) {
	t.Helper()
	if !x.Transport {
		t.Skip("not an HTTP backend")
	}
}

// lostReply sends the request and loses the answer: the instance exists.
func lostReply(t *testing.T, x *session) {
	x.needWire(t)
	req := x.request()
	x.wire.fail(func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		if resp, err := next.RoundTrip(r); err == nil {
			_ = resp.Body.Close() // lost
		}
		return nil, errReset
	})
	if _, err := x.Backend.Create(x.ctx, req); err == nil || backend.Refused(err) {
		t.Errorf("Create with a lost reply = %v, want an error that leaves the outcome open", err)
	}
	x.wire.fail(nil)
	first, err := x.Backend.Create(x.ctx, req)
	if err != nil {
		t.Fatalf("Create with the same token afterwards: %v", err)
	}
	x.listed(t, first.Ref)
	owned, err := x.Backend.List(x.ctx, serverID)
	if err != nil || len(owned) != 1 {
		t.Errorf("List = %v, %v, want the one instance", owned, err)
	}
}

func serverError(t *testing.T, x *session) {
	x.needWire(t)
	for _, status := range []int{500, 502, 503, 504} {
		x.wire.fail(func(r *http.Request, _ http.RoundTripper) (*http.Response, error) {
			return answer(r, status, http.Header{}), nil
		})
		if _, err := x.Backend.Create(x.ctx, x.request()); err == nil || backend.Refused(err) {
			t.Errorf("Create answered with %d = %v, want an error that leaves the outcome open", status, err)
		}
	}
}

func tooManyRequests(t *testing.T, x *session) {
	x.needWire(t)
	x.wire.fail(func(r *http.Request, _ http.RoundTripper) (*http.Response, error) {
		return answer(r, http.StatusTooManyRequests, http.Header{"Retry-After": {"7"}}), nil
	})
	_, err := x.Backend.Create(x.ctx, x.request())
	limit, ok := errors.AsType[*backend.RateLimitedError](err)
	if !ok {
		t.Fatalf("Create answered with 429 = %v, want *RateLimitedError", err)
	}
	if limit.After.Seconds() != 7 {
		t.Errorf("RateLimitedError.After = %v, the answer said 7 s", limit.After)
	}
}
