package backend_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/backend"
)

func TestRefused(t *testing.T) {
	for err, want := range map[error]bool{
		backend.ErrNoCapacity:                 true,
		fmt.Errorf("x: %w", backend.ErrQuota): true,
		backend.ErrAuth:                       true,
		&backend.RateLimitedError{}:           true,
		&backend.InvalidError{}:               true,
		backend.ErrNotFound:                   false,
		&backend.StatusError{Status: 500}:     false,
		context.DeadlineExceeded:              false,
		io.ErrUnexpectedEOF:                   false,
	} {
		if got := backend.Refused(err); got != want {
			t.Errorf("Refused(%v) = %v", err, got)
		}
	}
}

type config struct {
	Key string `json:"key"`
}

func (c config) Validate() error {
	if c.Key == "" {
		return &backend.InvalidError{Path: "key", Msg: "is required"}
	}
	return nil
}

func (c config) Variables() map[string]backend.Secret {
	return map[string]backend.Secret{"ACME_KEY": backend.Secret(c.Key)}
}

func TestDefine(t *testing.T) {
	var opened config
	typ := backend.Define("acme", "# Acme", func(_ context.Context, c config, _ backend.Deps) (backend.Backend, error) {
		opened = c
		return nil, nil
	})
	if _, err := typ.Decode([]byte(`{"key": "k", "extra": 1}`)); err == nil {
		t.Error("an unknown field was accepted")
	}
	c, err := typ.Decode([]byte(`{"key": "k"}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := typ.Open(t.Context(), c, backend.Deps{}); err != nil || opened.Key != "k" {
		t.Errorf("Open = %v with %+v", err, opened)
	}
	if got := typ.Variables(c); got["ACME_KEY"] != "k" {
		t.Errorf("Variables = %v", got)
	}
	if got := backend.Define("plain", "", func(context.Context, struct{}, backend.Deps) (backend.Backend, error) { return nil, nil }).Variables(new(struct{})); got != nil {
		t.Errorf("Variables of a config that has none = %v", got)
	}
	_, err = typ.Open(t.Context(), typ.New(), backend.Deps{})
	if invalid, ok := errors.AsType[*backend.InvalidError](err); !ok || invalid.Path != "key" {
		t.Errorf("Open of an empty config = %v", err)
	}
}

// script answers requests one after the other.
type script struct {
	answers []any // int (status), error, or http.Header (429 with it)
	bodies  []string
	agent   string
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	s.agent = r.Header.Get("User-Agent")
	body := ""
	if r.Body != nil {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		body = string(b)
	}
	s.bodies = append(s.bodies, body)
	a := s.answers[0]
	if len(s.answers) > 1 {
		s.answers = s.answers[1:]
	}
	resp := &http.Response{Header: http.Header{}, Body: io.NopCloser(strings.NewReader("answer")), Request: r}
	switch a := a.(type) {
	case error:
		return nil, a
	case int:
		resp.StatusCode = a
	case http.Header:
		resp.StatusCode, resp.Header = 429, a
	}
	return resp, nil
}

func TestTransport(t *testing.T) {
	reset := errors.New("reset")
	for name, tt := range map[string]struct {
		method, key string
		answers     []any
		requests    int
		status      int // 0: an error
		took        time.Duration
	}{
		"get ok":               {"GET", "", []any{200}, 1, 200, 0},
		"get not found":        {"GET", "", []any{404}, 1, 404, 0},
		"get is repeated":      {"GET", "", []any{503, reset, 502, 200}, 4, 200, 0},
		"get gives up":         {"GET", "", []any{504}, 4, 504, 0},
		"post is not repeated": {"POST", "", []any{503, 200}, 1, 503, 0},
		"post is not resent":   {"POST", "", []any{reset, 200}, 1, 0, 0},
		"post with a key":      {"POST", "k", []any{reset, 200}, 2, 200, 0},
		"waits as told":        {"GET", "", []any{http.Header{"Retry-After": {"9"}}, 200}, 2, 200, 9 * time.Second},
		"not for ever":         {"GET", "", []any{http.Header{"Retry-After": {"3600"}}, 200}, 1, 429, 0},
		"500 is an answer":     {"GET", "", []any{500, 200}, 1, 500, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{answers: tt.answers}
				client := http.Client{Transport: backend.NewTransport(backend.TransportConfig{Base: s, Log: slog.New(slog.DiscardHandler), Version: "1.2"})}
				r, err := http.NewRequestWithContext(t.Context(), tt.method, "http://cloud.example/x?key=secret", strings.NewReader("body"))
				if err != nil {
					t.Fatal(err)
				}
				if tt.key != "" {
					r.Header.Set("Idempotency-Key", tt.key)
				}
				began := time.Now()
				resp, err := client.Do(r)
				status := 0
				if err == nil {
					status = resp.StatusCode
					if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "answer" {
						t.Errorf("body %q, %v", b, err)
					}
				}
				if status != tt.status || len(s.bodies) != tt.requests {
					t.Errorf("status %d (%v) after %d requests, want %d after %d", status, err, len(s.bodies), tt.status, tt.requests)
				}
				for _, b := range s.bodies {
					if b != "body" {
						t.Errorf("a request carried %q", b)
					}
				}
				if d := time.Since(began); d < tt.took || d > 15*time.Second {
					t.Errorf("took %v, want at least %v", d, tt.took)
				}
				if s.agent != "dstack/1.2" {
					t.Errorf("User-Agent %q", s.agent)
				}
			})
		})
	}
}

func TestCheckResponse(t *testing.T) {
	check := func(status int) error {
		return backend.CheckResponse(&http.Response{
			StatusCode: status, Header: http.Header{"Retry-After": {"7"}}, Body: io.NopCloser(strings.NewReader("why\xff")),
		})
	}
	if err := check(204); err != nil {
		t.Errorf("204: %v", err)
	}
	if err := check(403); !errors.Is(err, backend.ErrAuth) || !strings.Contains(err.Error(), "why") {
		t.Errorf("403: %v", err)
	}
	if err := check(404); !errors.Is(err, backend.ErrNotFound) {
		t.Errorf("404: %v", err)
	}
	if limit, ok := errors.AsType[*backend.RateLimitedError](check(429)); !ok || limit.After != 7*time.Second {
		t.Errorf("429: %v", check(429))
	}
	if _, ok := errors.AsType[*backend.InvalidError](check(422)); !ok {
		t.Errorf("422: %v", check(422))
	}
	for status, want := range map[int]string{400: "400 bad request", 403: "403 forbidden", 404: "404 not found", 422: "422 unprocessable entity", 503: "status 503: service unavailable"} {
		err := backend.CheckResponse(&http.Response{StatusCode: status, Body: http.NoBody})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%d without a word: %v, want %q", status, err, want)
		}
	}
	if err := check(500); backend.Refused(err) || errors.Is(err, backend.ErrNotFound) {
		t.Errorf("500: %v", err)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "3": 3 * time.Second, "-3": 0, "soon": 0, "99999999999999": 0,
		"Tue, 24 Nov 2026 12:00:30 GMT": 30 * time.Second, "Tue, 24 Nov 2026 11:00:00 GMT": 0,
	} {
		if got := backend.RetryAfter(http.Header{"Retry-After": {value}}, now); got != want {
			t.Errorf("RetryAfter(%q) = %v, want %v", value, got, want)
		}
	}
}

// An instance is what it was, wherever its times were kept.
func TestInstanceEqual(t *testing.T) {
	now := time.Now() // with the clock's reading, and of this place
	full := func() backend.Instance {
		return backend.Instance{
			Mark: backend.Mark{IntentID: "i", Name: "n"}, Ref: backend.Ref{Region: "eu", ID: "1"}, State: backend.StateRunning, Hostname: "192.0.2.1",
			Jump: &backend.Jump{Hostname: "jump", Port: 22}, Price: 2.5, CreatedAt: now, GoneAt: now.Add(time.Hour),
		}
	}
	data, err := json.Marshal(full())
	if err != nil {
		t.Fatal(err)
	}
	var stored backend.Instance
	if err := json.Unmarshal(data, &stored); err != nil {
		t.Fatal(err)
	}
	if !stored.Equal(full()) {
		t.Errorf("%+v is not %+v", stored, full())
	}
	for name, change := range map[string]func(*backend.Instance){
		"state": func(i *backend.Instance) { i.State = backend.StateGone }, "address": func(i *backend.Instance) { i.Hostname = "192.0.2.2" },
		"jump": func(i *backend.Instance) { i.Jump.Port = 2222 }, "no jump": func(i *backend.Instance) { i.Jump = nil },
		"price": func(i *backend.Instance) { i.Price = 3 }, "begin": func(i *backend.Instance) { i.CreatedAt = now.Add(1) }, "end": func(i *backend.Instance) { i.GoneAt = time.Time{} },
	} {
		other := full()
		if change(&other); stored.Equal(other) {
			t.Errorf("another %s makes no difference", name)
		}
	}
}
