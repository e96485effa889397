package lambda

import (
	"errors"
	"io"
	"net/http"
	"testing"
	"testing/synctest"

	"dstack/internal/backend"
	"dstack/internal/catalog/pricelist"
	"dstack/internal/offer"
)

// FuzzAnswers has the provider answer anything: calls may fail, but not panic, and what
// they return is complete.
func FuzzAnswers(f *testing.F) {
	f.Add(200, `{"data": []}`)
	f.Add(200, `{"data": {"id": "x", "status": "active", "ip": "1.2.3.4", "region": {"name": "r", "description": ""}}}`)
	f.Add(200, `{"data": {"instance_ids": ["x"]}}`)
	f.Add(200, `{"data": {"t": {"instance_type": {"name": "t", "description": "1x A10 (24 GB)", "price_cents_per_hour": 1}}}}`)
	f.Add(200, `{"data": [{"id": "x", "status": 5, "region": null, "tags": [{"key": "dstack-server", "value": "s"}]}, 7, null, {"tags": {}}]}`)
	f.Add(200, `{"data": {"t": {"instance_type": {"name": "t", "description": "1x A10 (24 GB)", "price_cents_per_hour": "free"}}, "u": 7}}`)
	f.Add(404, `{"error": {"code": "global/object-does-not-exist"}}`)
	f.Add(429, ``)
	f.Fuzz(func(t *testing.T, status int, body string) {
		if status < 200 || status > 599 {
			return // no HTTP
		}
		synctest.Test(t, func(t *testing.T) {
			b := openAt(t, goodKey, "", direct{http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
				_, _ = io.WriteString(w, body) // a recorder takes everything
			})}, quiet()).(*lambda)
			ref := backend.Ref{Region: "r", ID: "x"}
			if inst, err := b.Describe(t.Context(), ref); err == nil && (inst.State == "" || inst.Ref.ID != "x" || inst.Ref.Region == "") {
				t.Errorf("Describe = %+v", inst)
			}
			owned, err := b.List(t.Context(), "s")
			_, part := errors.AsType[*backend.UnreadError](err)
			for _, o := range owned {
				if o.Ref.ID == "" || o.Ref.Region == "" && !part || o.State == "" || err != nil && !part {
					t.Errorf("List has %+v, %v", o, err)
				}
			}
			offers, err := b.Offers(t.Context(), offer.Query{})
			for _, o := range offers {
				if err == nil && pricelist.CheckLive(o) != nil { // left out by whoever asked
					continue
				}
				if o.Region == "" || o.Instance == "" || o.Price <= 0 || err != nil {
					t.Errorf("Offers has %+v, %v", o, err)
				}
			}
			if inst, err := b.Create(t.Context(), request("t", "x")); err == nil && inst.Ref.ID == "" {
				t.Errorf("Create = %+v", inst)
			}
			_ = b.Terminate(t.Context(), ref) // must return
			_ = b.Tidy(t.Context(), "s")      // must return
			_ = b.Check(t.Context())          // must return
		})
	})
}
