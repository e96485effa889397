package backendtest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"dstack/internal/backend"
	"dstack/internal/backend/backendtest"
	"dstack/internal/backend/fake"
	"dstack/internal/offer"
)

// TestConformance runs the suite in real time against a fake cloud behind HTTP, so that its
// tests of the wire are tested too.
func TestConformance(t *testing.T) {
	backendtest.Run(t, func(t *testing.T, transport http.RoundTripper) backendtest.Subject {
		cloud := fake.New(fake.Config{Offers: fake.SomeOffers()})
		srv := httptest.NewServer(serve(cloud))
		t.Cleanup(srv.Close)
		client := &http.Client{Transport: backend.NewTransport(backend.TransportConfig{Base: transport, Log: slog.New(slog.DiscardHandler), Version: "test"})}
		return backendtest.Subject{
			Backend:   &remote{client, srv.URL, "good"},
			Transport: true,
			BadAuth:   func(*testing.T) backend.Backend { return &remote{client, srv.URL, "bad"} },
			Foreign: func(*testing.T) backend.Ref {
				return backend.Ref{Region: "north", ID: cloud.Plant("north", 1, nil)}
			},
		}
	})
}

// remote is a backend over HTTP.
type remote struct {
	client *http.Client
	url    string
	key    string
}

func (b *remote) call(ctx context.Context, method, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, method, b.url+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", b.key)
	resp, err := b.client.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // read or not needed
	if err := backend.CheckResponse(resp); err != nil {
		return err
	}
	data, err := backend.ReadBody(resp, 1<<20)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, out)
}

func (b *remote) Offers(ctx context.Context, q offer.Query) (all []offer.Offer, err error) {
	var rows []json.RawMessage
	err = b.call(ctx, "GET", "/offers", q, &rows)
	for _, row := range rows {
		var o offer.Offer
		if json.Unmarshal(row, &o) == nil && o.Instance != "" {
			all = append(all, o)
		}
	}
	return all, err
}

func (b *remote) Create(ctx context.Context, req backend.CreateRequest) (backend.Instance, error) {
	return b.instance(ctx, "POST", "/create", req)
}

func (b *remote) Describe(ctx context.Context, ref backend.Ref) (backend.Instance, error) {
	return b.instance(ctx, "GET", "/describe", ref)
}

func (b *remote) instance(ctx context.Context, method, path string, in any) (inst backend.Instance, err error) {
	if err = b.call(ctx, method, path, in, &inst); err == nil && inst.Ref.ID == "" {
		err = errors.New("the answer has no instance")
	}
	return inst, err
}

func (b *remote) Terminate(ctx context.Context, ref backend.Ref) error {
	var none struct{}
	return b.call(ctx, "POST", "/terminate", ref, &none)
}

func (b *remote) List(ctx context.Context, serverID string) (all []backend.Owned, err error) {
	var rows []json.RawMessage
	if err := b.call(ctx, "GET", "/list", serverID, &rows); err != nil {
		return nil, err
	}
	unread := &backend.UnreadError{Hidden: true}
	for _, row := range rows {
		var o backend.Owned
		if err := json.Unmarshal(row, &o); err != nil || o.Ref.ID == "" {
			unread.Rows = append(unread.Rows, string(row))
			continue
		}
		all = append(all, o)
	}
	if len(unread.Rows) > 0 {
		return all, unread
	}
	return all, nil
}

func (b *remote) CreatePlacement(ctx context.Context, req backend.PlacementRequest) (backend.Placement, error) {
	return b.group(ctx, "POST", "/groups/create", req)
}

func (b *remote) DescribePlacement(ctx context.Context, ref backend.Ref) (backend.Placement, error) {
	return b.group(ctx, "GET", "/groups/describe", ref)
}

func (b *remote) group(ctx context.Context, method, path string, in any) (p backend.Placement, err error) {
	if err = b.call(ctx, method, path, in, &p); err == nil && p.Ref.ID == "" {
		err = errors.New("the answer has no group")
	}
	return p, err
}

func (b *remote) DeletePlacement(ctx context.Context, ref backend.Ref) error {
	var none struct{}
	err := b.call(ctx, "POST", "/groups/delete", ref, &none)
	if status, ok := errors.AsType[*backend.StatusError](err); ok && status.Status == http.StatusLocked {
		return backend.ErrInUse
	}
	return err
}

func (b *remote) Placeable(o backend.Offer, group backend.Ref) bool {
	return group.ID == "" || group.Region == o.Region
}

func (b *remote) PlacesReserved() bool { return true }

func serve(c *fake.Cloud) http.Handler {
	mux := http.NewServeMux()
	handle(mux, "GET /offers", c.Offers)
	handle(mux, "POST /create", c.Create)
	handle(mux, "GET /describe", c.Describe)
	handle(mux, "POST /terminate", func(ctx context.Context, ref backend.Ref) (struct{}, error) { return struct{}{}, c.Terminate(ctx, ref) })
	handle(mux, "GET /list", c.List)
	handle(mux, "POST /groups/create", c.CreatePlacement)
	handle(mux, "GET /groups/describe", c.DescribePlacement)
	handle(mux, "POST /groups/delete", func(ctx context.Context, ref backend.Ref) (struct{}, error) {
		return struct{}{}, c.DeletePlacement(ctx, ref)
	})
	return mux
}

func handle[In, Out any](mux *http.ServeMux, pattern string, f func(context.Context, In) (Out, error)) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		var in In
		if r.Header.Get("Authorization") != "good" {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		out, err := f(r.Context(), in)
		switch {
		case errors.Is(err, backend.ErrNotFound):
			http.Error(w, err.Error(), http.StatusNotFound)
		case errors.Is(err, backend.ErrInUse):
			http.Error(w, err.Error(), http.StatusLocked)
		case backend.Refused(err):
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		case err != nil:
			http.Error(w, err.Error(), http.StatusInternalServerError)
		default:
			_ = json.NewEncoder(w).Encode(out) // the client sees a short answer
		}
	})
}
