package backendtest

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"

	"dstack/internal/backend"
)

var errReset = errors.New("connection reset by peer")

// direct is a transport that calls a handler in memory.
type direct struct{ handler http.Handler }

// RoundTrip implements http.RoundTripper.
func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		closeBody(r)
		return nil, err
	}
	in := r.Clone(r.Context())
	if in.Body == nil {
		in.Body = http.NoBody
	}
	defer closeBody(r)
	rec := httptest.NewRecorder()
	d.handler.ServeHTTP(rec, in)
	resp := rec.Result()
	resp.Request = r
	return resp, nil
}

// closeBody does what a transport must with the body of a request.
func closeBody(r *http.Request) {
	if r.Body != nil {
		_ = r.Body.Close() // it was read or is not needed
	}
}

// breakage is what happens to a request instead.
type breakage func(r *http.Request, next http.RoundTripper) (*http.Response, error)

// breaker is a transport that fails on demand.
type breaker struct {
	next   http.RoundTripper
	mu     sync.Mutex
	how    breakage
	writes bool // break only what changes something
}

// RoundTrip implements http.RoundTripper.
func (b *breaker) RoundTrip(r *http.Request) (*http.Response, error) {
	b.mu.Lock()
	how := b.how
	if b.writes && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		how = nil
	}
	b.mu.Unlock()
	if how == nil {
		return b.next.RoundTrip(r)
	}
	return how(r, b.next)
}

// breakWrites breaks all requests that change something, until heal.
func (b *breaker) breakWrites(how breakage) { b.set(how, true) }

// breakAll breaks all requests, until heal.
func (b *breaker) breakAll(how breakage) { b.set(how, false) }

func (b *breaker) heal() { b.set(nil, false) }

func (b *breaker) set(how breakage, writes bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.how, b.writes = how, writes
}

// lose sends a request and loses the answer.
func lose(r *http.Request, next http.RoundTripper) (*http.Response, error) {
	if resp, err := next.RoundTrip(r); err == nil {
		_ = resp.Body.Close() // lost
	}
	return nil, errReset
}

// hang never answers.
func hang(r *http.Request, _ http.RoundTripper) (*http.Response, error) {
	closeBody(r)
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// answer replaces every answer.
func answer(status int, header http.Header, body io.Reader) breakage {
	return func(r *http.Request, _ http.RoundTripper) (*http.Response, error) {
		closeBody(r)
		return &http.Response{
			Status: http.StatusText(status), StatusCode: status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: header, Body: io.NopCloser(body), ContentLength: -1, Request: r,
		}, nil
	}
}

// says replaces every answer by a short one.
func says(status int, body string) breakage {
	return func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		return answer(status, http.Header{"Content-Type": {"application/json"}}, strings.NewReader(body))(r, next)
	}
}

// trickle begins to answer and goes silent until the request is given up.
func trickle(r *http.Request, next http.RoundTripper) (*http.Response, error) {
	return answer(http.StatusOK, http.Header{}, io.MultiReader(strings.NewReader(`{"data": [`), silence{r}))(r, next)
}

type silence struct{ r *http.Request }

func (s silence) Read([]byte) (int, error) {
	<-s.r.Context().Done()
	return 0, s.r.Context().Err()
}

// patientBytes is how much of an endless answer a backend may read before it has to see
// that something is wrong.
const patientBytes = 64 << 20

// endless is the text of a list that does not end. It notes when somebody reads on.
type endless struct {
	read    int
	swamped bool
}

func (e *endless) Read(p []byte) (int, error) {
	if e.read > patientBytes {
		e.swamped = true
		return 0, io.ErrUnexpectedEOF
	}
	for i := range p {
		p[i] = '['
	}
	e.read += len(p)
	return len(p), nil
}

// proves reports whether err claims to know what happened.
func proves(err error) bool {
	return err == nil || backend.Refused(err) || errors.Is(err, backend.ErrNotFound) || errors.Is(err, backend.ErrInUse)
}
