package backendtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"dstack/internal/backend"
	"dstack/internal/offer"
)

// strangeRows are no rows of any provider's.
func strangeRows() []any {
	return []any{json.Number("7"), nil, "x", map[string]any{}, map[string]any{"id": map[string]any{}, "name": json.Number("7"), "tags": "none", "status": []any{}}}
}

// strangeRow adds to the lists of every answer a row that nobody can read, as if it were a stranger's: what is ours
// is still made, found and ended.
func strangeRow(t *testing.T, x *session) {
	for _, row := range strangeRows() {
		x.wire.heal()
		_, inst := x.create(t)
		x.listed(t, inst.Ref)
		x.wire.breakAll(rows(func(list []any) []any { return append(list, row) }))
		owned, err := x.Backend.List(x.ctx, serverID)
		if _, part := errors.AsType[*backend.UnreadError](err); err != nil && !part || !has(owned, inst.Ref) {
			t.Errorf("List with the row %v = %+v, %v, want ours, and at most an UnreadError", row, owned, err)
		}
		if got, err := x.Backend.Describe(x.ctx, inst.Ref); err != nil || got.Ref.ID != inst.Ref.ID {
			t.Errorf("Describe with the row %v = %+v, %v", row, got, err)
		}
		offers, err := x.Backend.Offers(x.ctx, offer.Query{})
		if err != nil || !slices.ContainsFunc(offers, func(o offer.Offer) bool { return o.Key() == x.offer.Key() }) {
			t.Errorf("Offers with the row %v = %d, %v", row, len(offers), err)
		}
		if _, err := x.ask(x.ctx, x.request()); err != nil {
			t.Errorf("Create with the row %v = %v", row, err)
		}
		x.end(t, inst.Ref)
	}
}

// ownRowStrange makes the row of an instance one that nobody can read: it may not look as if it were gone.
func ownRowStrange(t *testing.T, x *session) {
	_, inst := x.create(t)
	x.listed(t, inst.Ref)
	for _, row := range strangeRows() {
		x.wire.breakAll(rows(func(list []any) []any {
			for i := range list {
				if text, err := json.Marshal(list[i]); err == nil && strings.Contains(string(text), `"`+inst.Ref.ID+`"`) {
					list[i] = row
				}
			}
			return list
		}))
		owned, err := x.Backend.List(x.ctx, serverID)
		unread, part := errors.AsType[*backend.UnreadError](err)
		if !has(owned, inst.Ref) && (err == nil || part && !unread.Hidden) {
			t.Errorf("List with the row %v for ours = %+v, %v: that it is not listed proves nothing", row, owned, err)
		}
		got, err := x.Backend.Describe(x.ctx, inst.Ref)
		if errors.Is(err, backend.ErrNotFound) || err == nil && (got.State == backend.StateGone || got.State == backend.StateFailed) {
			t.Errorf("Describe with the row %v for ours = %s, %v: it must not look ended", row, got.State, err)
		}
	}
}

func has(owned []backend.Owned, ref backend.Ref) bool {
	return slices.ContainsFunc(owned, func(o backend.Owned) bool { return o.Ref.ID == ref.ID && o.State != backend.StateGone })
}

// rows changes the lists of objects in answers that are JSON: those of the answer, not those of their rows.
func rows(change func(list []any) []any) breakage {
	return func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
		resp, err := next.RoundTrip(r)
		if err != nil {
			return resp, err
		}
		data, err := io.ReadAll(resp.Body)
		if err := errors.Join(err, resp.Body.Close()); err != nil {
			return nil, err
		}
		var doc any
		in := json.NewDecoder(bytes.NewReader(data))
		in.UseNumber()
		if in.Decode(&doc) == nil {
			if data, err = json.Marshal(within(doc, change)); err != nil {
				return nil, err
			}
		}
		resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(data)), int64(len(data))
		resp.Header.Del("Content-Length")
		return resp, nil
	}
}

func within(doc any, change func(list []any) []any) any {
	switch v := doc.(type) {
	case map[string]any:
		for name, field := range v {
			v[name] = within(field, change)
		}
	case []any:
		if len(v) == 0 {
			return v
		}
		if _, ok := v[0].(map[string]any); ok {
			return change(v)
		}
	}
	return doc
}
