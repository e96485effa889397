package lambda

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/backend"
	"dstack/internal/catalog/pricelist"
	"dstack/internal/offer"
)

// spoiled is an account whose lists are spoiled by a function, without Lambda's description of them.
func spoiled(t *testing.T, a *account, path string, spoil func(data any) any) *lambda {
	t.Helper()
	serve := a.serve(t, nil)
	return openAt(t, goodKey, "", direct{http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.URL.Path != "/api/v1"+path {
			serve.ServeHTTP(w, r)
			return
		}
		resp, err := direct{serve}.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		var body map[string]any
		if err := json.NewDecoder(resp.Body).Decode(&body); err != nil {
			t.Fatal(err)
		}
		w.WriteHeader(resp.StatusCode)
		if resp.StatusCode == http.StatusOK {
			body["data"] = spoil(body["data"])
		}
		_ = json.NewEncoder(w).Encode(body)
	})}, quiet()).(*lambda)
}

// set returns a copy of a row with other fields; nil takes one away.
func set(row any, fields map[string]any) any {
	out := map[string]any{}
	for k, v := range row.(map[string]any) {
		out[k] = v
	}
	for k, v := range fields {
		if out[k] = v; v == nil {
			delete(out, k)
		}
	}
	return out
}

// TestRowsOfNonsense lists one row in a form that nobody expects, a stranger's or ours. Others are as they
// were, and what is not known of it is never taken for its end.
func TestRowsOfNonsense(t *testing.T) {
	foreign := []any{map[string]any{"key": "team", "value": "others"}}
	type change = map[string]any
	for name, tt := range map[string]struct {
		row    any // in place of the row, or fields of it
		hidden bool
		told   string // of our own row, "" when it is as good as ever
		state  backend.State
	}{
		"half a cent":           {row: change{"instance_type": change{"name": "x", "price_cents_per_hour": 75.5}}, state: backend.StateRunning},
		"a price in words":      {row: change{"instance_type": change{"name": "x", "price_cents_per_hour": "free"}}, told: "price_cents_per_hour", state: backend.StateRunning},
		"a price too large":     {row: change{"instance_type": change{"name": "x", "price_cents_per_hour": json.Number("1e999")}}, told: "price_cents_per_hour", state: backend.StateRunning},
		"a type of no form":     {row: change{"instance_type": 7}, told: "instance_type is 7", state: backend.StateRunning},
		"no region":             {row: change{"region": nil}, told: "no region", state: backend.StateRunning},
		"a region in a list":    {row: change{"region": []any{"us-east-1"}}, told: "no region", state: backend.StateRunning},
		"an address of no form": {row: change{"ip": 7}, told: "ip is 7", state: backend.StatePending},
		"keys of no form":       {row: change{"ssh_key_names": "mine"}, told: "ssh_key_names", state: backend.StateRunning},
		"a status of no form":   {row: change{"status": change{"is": "terminated"}}, told: "status", state: backend.StatePending},
		"no status":             {row: change{"status": nil}, state: backend.StatePending},
		"a name of no form":     {row: change{"name": 7}, told: "name is 7", state: backend.StateRunning},
		"tags of no form":       {row: change{"tags": change{"a": "b"}}, hidden: true, state: backend.StateRunning},
		"an id of no form":      {row: change{"id": 7}, told: "id is 7", hidden: true, state: backend.StateRunning},
		"no id":                 {row: change{"id": nil}, told: "no id", hidden: true, state: backend.StateRunning},
		"a number":              {row: 7, hidden: true, state: backend.StateRunning},
		"nothing":               {row: json.RawMessage("null"), hidden: true, state: backend.StateRunning},
		"an empty object":       {row: change(nil), hidden: true, state: backend.StateRunning},
	} {
		for _, ours := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", ours", false: ", a stranger's"}[ours], func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a := newAccount()
					stranger := a.add("us-west-1", "gpu_1x_a10", "theirs", "laptop", foreign)
					spoil := func(data any) any { return data }
					b := spoiled(t, a, "/instances", func(data any) any { return spoil(data) })
					kept, err := b.Create(t.Context(), request("t", "gpu_1x_a10"))
					victim := stranger
					if err == nil && ours {
						time.Sleep(time.Minute)
						var inst backend.Instance
						inst, err = b.Create(t.Context(), request("v", "gpu_1x_a10"))
						victim = inst.Ref.ID
					}
					if err != nil {
						t.Fatal(err)
					}
					spoil = func(data any) any {
						for i, row := range data.([]any) {
							if row.(map[string]any)["id"] != victim {
								continue
							}
							if fields, ok := tt.row.(change); ok && fields != nil {
								data.([]any)[i] = set(row, fields)
							} else if ok {
								data.([]any)[i] = map[string]any{}
							} else {
								data.([]any)[i] = tt.row
							}
						}
						return data
					}
					time.Sleep(time.Hour)

					owned, err := b.List(t.Context(), "s1")
					unread, part := errors.AsType[*backend.UnreadError](err)
					listed := func(id string) bool {
						return slices.ContainsFunc(owned, func(o backend.Owned) bool { return o.Ref.ID == id && o.State != backend.StateGone })
					}
					// A stranger's id does not matter while its tags say whose it is.
					hidden := tt.hidden && (ours || name != "an id of no form" && name != "no id")
					switch {
					case err != nil && !part || hidden != (part && unread.Hidden):
						t.Errorf("List = %v, want it to hide something: %v", err, hidden)
					case !listed(kept.Ref.ID), ours && listed(victim) == tt.hidden, !ours && listed(victim):
						t.Errorf("List has %+v", owned)
					case ours && !strings.Contains(errorText(err), tt.told), !ours && !hidden && err != nil:
						t.Errorf("List = %v, want to be told of %q", err, tt.told)
					}
					got, err := b.Describe(t.Context(), backend.Ref{Region: "us-east-1", ID: victim})
					if err != nil || got.State != tt.state || got.Ref.ID != victim || got.Ref.Region == "" {
						t.Errorf("Describe = %+v, %v, want %s", got, err, tt.state)
					}
					if _, err := b.Create(t.Context(), request("u", "gpu_1x_a10")); err != nil {
						t.Errorf("Create of another = %v", err)
					}
					if err := b.Tidy(t.Context(), "s1"); err != nil || len(a.keys) != 1 {
						t.Errorf("Tidy = %v, keys %v", err, a.keys)
					}
					for _, id := range []string{kept.Ref.ID, victim} {
						if !ours && id == victim {
							continue
						}
						if err := b.Terminate(t.Context(), backend.Ref{Region: "us-east-1", ID: id}); err != nil {
							t.Errorf("Terminate = %v", err)
						}
					}
					time.Sleep(time.Hour)
					if _, err := b.Describe(t.Context(), kept.Ref); !errors.Is(err, backend.ErrNotFound) {
						t.Errorf("the end is not confirmed: %v", err)
					}
				})
			})
		}
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestTypesOfNonsense lists one instance type in a form that nobody expects: its offers are left out, and told of.
func TestTypesOfNonsense(t *testing.T) {
	type change = map[string]any
	for name, row := range map[string]any{
		"a price in words": change{"instance_type": change{"name": "gpu_8x_h100_sxm5", "description": "8x H100 (80 GB SXM5)", "price_cents_per_hour": "free", "specs": change{"vcpus": 208, "memory_gib": 1800}}},
		"half a CPU":       change{"instance_type": change{"name": "gpu_8x_h100_sxm5", "description": "8x H100 (80 GB SXM5)", "price_cents_per_hour": 1, "specs": change{"vcpus": 0.5, "memory_gib": 1800}}},
		"specs in words":   change{"instance_type": change{"name": "gpu_8x_h100_sxm5", "description": "8x H100 (80 GB SXM5)", "price_cents_per_hour": 1, "specs": "many"}},
		"no words":         change{"instance_type": change{"name": "gpu_8x_h100_sxm5", "description": 8, "price_cents_per_hour": 1, "specs": change{"vcpus": 208, "memory_gib": 1800}}},
		"a number":         7,
		"nothing":          json.RawMessage("null"),
		"no regions":       change{"instance_type": change{"name": "x"}, "regions_with_capacity_available": "all"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := spoiled(t, newAccount(), "/instance-types", func(data any) any {
					data.(map[string]any)["gpu_8x_h100_sxm5"] = row
					return data
				})
				all, err := b.Offers(t.Context(), offer.Query{})
				good, bad := 0, 0
				for _, o := range all {
					switch {
					case pricelist.CheckLive(o) != nil:
						bad++
					case o.Instance == "gpu_1x_a10":
						good++
					case o.Instance == "gpu_8x_h100_sxm5":
						t.Errorf("offers %+v", o)
					}
				}
				if err != nil || good != len(regionNames) || bad != 1 {
					t.Errorf("%d offers and %d that nobody can mean, %v, want %d and 1", good, bad, err, len(regionNames))
				}
			})
		})
	}
}

// TestRegionsAndKeysOfNonsense lists regions and SSH keys of which some are none.
func TestRegionsAndKeysOfNonsense(t *testing.T) {
	for _, path := range []string{"/regions", "/ssh-keys"} {
		synctest.Test(t, func(t *testing.T) {
			b := spoiled(t, newAccount(), path, func(data any) any {
				list, _ := data.([]any)
				return append(list, 7, json.RawMessage("null"), "x", map[string]any{"name": 7, "public_key": []any{}, "id": map[string]any{}})
			})
			if all, err := b.Offers(t.Context(), offer.Query{}); err != nil || len(all) == 0 || slices.ContainsFunc(all, func(o offer.Offer) bool { return o.Region == "" }) {
				t.Errorf("%s: Offers = %+v, %v", path, all, err)
			}
			if _, err := b.Create(t.Context(), request("t", "gpu_1x_a10")); err != nil {
				t.Errorf("%s: Create = %v", path, err)
			}
			if err := b.Tidy(t.Context(), "s1"); err != nil {
				t.Errorf("%s: Tidy = %v", path, err)
			}
		})
	}
}
