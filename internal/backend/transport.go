package backend

import (
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"
)

const (
	// maxRepeats is how often a request that may be repeated is, after its first attempt.
	maxRepeats = 3
	// longestPause bounds what a Retry-After can make one call wait; the caller's own loop
	// handles what is longer.
	longestPause = 20 * time.Second
)

// TransportConfig is what NewTransport needs.
type TransportConfig struct {
	Base    http.RoundTripper // optional: nil means a clone of http.DefaultTransport
	Log     *slog.Logger
	Version string // of this program, for the User-Agent
}

// NewTransport returns the transport that all backends share. It names the program, repeats
// what is idempotent (GET, HEAD, or a request with an Idempotency-Key) after rate limits and
// failures of the network or the provider's front end, never anything else, and logs each
// request without its query, headers and body, which may hold secrets.
func NewTransport(c TransportConfig) http.RoundTripper {
	if c.Base == nil {
		c.Base = http.DefaultTransport.(*http.Transport).Clone()
	}
	return &transport{c}
}

type transport struct{ TransportConfig }

type turnKey struct{}

// WithTurns has what is sent again for a request of ctx wait for a turn each time, for providers that
// bound how often they are asked. The first attempt is up to the caller.
func WithTurns(ctx context.Context, turn func(context.Context) error) context.Context {
	return context.WithValue(ctx, turnKey{}, turn)
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx := r.Context()
	r = r.Clone(ctx)
	r.Header.Set("User-Agent", "dstack/"+t.Version)
	for attempt := 1; ; attempt++ {
		began := time.Now()
		resp, err := t.Base.RoundTrip(r)
		t.log(r, resp, err, attempt, time.Since(began))
		pause, again := t.repeat(r, resp, err, attempt)
		if !again {
			return resp, err
		}
		if resp != nil {
			_, _ = io.CopyN(io.Discard, resp.Body, 64<<10) // so that the connection is reused
			_ = resp.Body.Close()                          // its content does not matter
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if turn, ok := ctx.Value(turnKey{}).(func(context.Context) error); ok {
			if err := turn(ctx); err != nil {
				return nil, err
			}
		}
		if r.GetBody != nil {
			if r.Body, err = r.GetBody(); err != nil {
				return nil, err
			}
		}
	}
}

// repeat decides whether to send r again, and after what pause.
func (t *transport) repeat(r *http.Request, resp *http.Response, err error, attempt int) (time.Duration, bool) {
	idempotent := r.Method == http.MethodGet || r.Method == http.MethodHead || r.Header.Get("Idempotency-Key") != ""
	sendable := r.Body == nil || r.Body == http.NoBody || r.GetBody != nil
	if attempt > maxRepeats || !idempotent || !sendable || r.Context().Err() != nil {
		return 0, false
	}
	pause := time.Duration(attempt)*time.Second/2 + rand.N(time.Second/2)
	if err != nil {
		return pause, true
	}
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		asked := RetryAfter(resp.Header, time.Now())
		return max(pause, asked), asked <= longestPause
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		return pause, true
	}
	return 0, false
}

// requestIDs are the headers by which providers' support finds a request.
var requestIDs = []string{"X-Request-Id", "X-Amzn-Requestid", "X-Ms-Request-Id", "Opc-Request-Id", "Cf-Ray"}

func (t *transport) log(r *http.Request, resp *http.Response, err error, attempt int, dur time.Duration) {
	if !t.Log.Enabled(r.Context(), slog.LevelDebug) {
		return
	}
	log := t.Log.With("method", r.Method, "host", r.URL.Host, "path", r.URL.Path, "attempt", attempt, "dur", dur)
	if err != nil {
		log.Debug("provider request failed", "err", err)
		return
	}
	for _, name := range requestIDs {
		if id := resp.Header.Get(name); id != "" {
			log = log.With("request_id", id)
			break
		}
	}
	log.Debug("provider request", "status", resp.StatusCode)
}

// RetryAfter reads a Retry-After header, in seconds or as a date; 0 when there is none.
func RetryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if n, err := strconv.Atoi(v); err == nil && n >= 0 && n < 1<<31 {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil && at.After(now) {
		return at.Sub(now)
	}
	return 0
}
