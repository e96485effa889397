package lambda

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"dstack/internal/backend/backendtest/openapi"
)

const goodKey = "secret_good_0123456789"

// account is the state of a Lambda account, served as their API.
type account struct {
	mu        sync.Mutex
	boot, end time.Duration // how long booting and terminating take
	capacity  map[string]int
	machines  []*machine
	keys      []map[string]any
	next      int
	requests  limit
	launches  limit
	throttled int // answers with 429
	served    int // others
}

// limit allows one call in a time.
type limit struct {
	every time.Duration
	last  time.Time
}

func (l *limit) allows() bool {
	now := time.Now()
	if !l.last.IsZero() && now.Sub(l.last) < l.every {
		return false
	}
	l.last = now
	return true
}

type machine struct {
	doc       map[string]any
	typ       string
	launched  time.Time
	ending    time.Time // zero: not asked
	invented  string    // a status that the description does not know
	preempted bool
}

var regionNames = []string{"us-east-1", "us-west-1", "europe-central-1"}

func newAccount() *account {
	return &account{
		boot: 4 * time.Minute, end: 30 * time.Second,
		requests: limit{every: time.Second}, launches: limit{every: 12 * time.Second},
		capacity: map[string]int{"gpu_1x_a10": 1000, "gpu_8x_h100_sxm5": 2},
	}
}

// serve returns the API, each exchange checked against Lambda's description of it.
func (a *account) serve(t *testing.T, spec *openapi.Spec) http.Handler {
	mux := http.NewServeMux()
	for pattern, f := range map[string]func(*http.Request) (int, any){
		"GET /api/v1/instance-types":                 a.types,
		"GET /api/v1/regions":                        a.regions,
		"GET /api/v1/instances":                      a.list,
		"GET /api/v1/instances/{id}":                 a.get,
		"POST /api/v1/instance-operations/launch":    a.launch,
		"POST /api/v1/instance-operations/terminate": a.terminate,
		"GET /api/v1/ssh-keys":                       a.listKeys,
		"POST /api/v1/ssh-keys":                      a.addKey,
		"DELETE /api/v1/ssh-keys/{id}":               a.deleteKey,
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			a.mu.Lock()
			defer a.mu.Unlock()
			status, body := a.admit(r)
			if status == 0 {
				status, body = f(r)
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_ = json.NewEncoder(w).Encode(body) // the client may be gone
		})
	}
	if spec == nil {
		return mux
	}
	return spec.Check(t, mux)
}

// admit checks the key and the rate.
func (a *account) admit(r *http.Request) (int, any) {
	if r.Header.Get("Authorization") != "Bearer "+goodKey {
		return refuse(401, "global/invalid-api-key", "API key was invalid, expired, or deleted.")
	}
	if !a.requests.allows() || strings.HasSuffix(r.URL.Path, "/launch") && !a.launches.allows() {
		a.throttled++
		return 429, map[string]any{}
	}
	a.served++
	return 0, nil
}

func refuse(status int, code, message string) (int, any) {
	return status, map[string]any{"error": map[string]any{"code": code, "message": message, "suggestion": "Look again."}}
}

func data(v any) (int, any) { return 200, map[string]any{"data": v} }

func region(name string) map[string]any {
	return map[string]any{"name": name, "description": "Somewhere"}
}

func typeDoc(name string) map[string]any {
	specs := func(cpus, memory, disk, gpus int) map[string]any {
		return map[string]any{"vcpus": cpus, "memory_gib": memory, "storage_gib": disk, "gpus": gpus}
	}
	return map[string]map[string]any{
		"gpu_1x_a10":       {"name": name, "description": "1x A10 (24 GB PCIe)", "gpu_description": "A10 (24 GB PCIe)", "price_cents_per_hour": 75, "specs": specs(30, 200, 1400, 1)},
		"gpu_8x_h100_sxm5": {"name": name, "description": "8x H100 (80 GB SXM5)", "gpu_description": "H100 (80 GB SXM5)", "price_cents_per_hour": 2392, "specs": specs(208, 1800, 22528, 8)},
		"gpu_1x_gh200":     {"name": name, "description": "1x GH200 (96 GB)", "gpu_description": "GH200 (96 GB)", "price_cents_per_hour": 149, "specs": specs(64, 432, 4096, 1)},
		"cpu_4x_general":   {"name": name, "description": "4x CPU General", "gpu_description": "N/A", "price_cents_per_hour": 20, "specs": specs(4, 16, 512, 0)},
	}[name]
}

func (a *account) types(*http.Request) (int, any) {
	all := map[string]any{}
	for _, name := range []string{"gpu_1x_a10", "gpu_8x_h100_sxm5", "gpu_1x_gh200", "cpu_4x_general"} {
		within := []any{}
		if a.capacity[name] > 0 {
			within = append(within, region(regionNames[0]), region(regionNames[1]))
		}
		all[name] = map[string]any{"instance_type": typeDoc(name), "regions_with_capacity_available": within}
	}
	return data(all)
}

func (a *account) regions(*http.Request) (int, any) {
	var all []any
	for _, name := range regionNames {
		all = append(all, region(name))
	}
	return data(all)
}

// pass lets time take effect: machines boot, end and leave the list.
func (a *account) pass() {
	now := time.Now()
	a.machines = slices.DeleteFunc(a.machines, func(m *machine) bool {
		return !m.ending.IsZero() && !now.Before(m.ending.Add(2*a.end))
	})
	for _, m := range a.machines {
		switch {
		case m.invented != "":
			m.doc["status"] = m.invented
		case !m.ending.IsZero() && !now.Before(m.ending.Add(a.end)):
			m.doc["status"] = "terminated"
		case !m.ending.IsZero():
			m.doc["status"] = "terminating"
		case m.preempted:
			m.doc["status"] = "preempted"
		case !now.Before(m.launched.Add(a.boot)):
			m.doc["status"] = "active"
			m.doc["ip"], m.doc["private_ip"] = "198.51.100."+m.doc["id"].(string)[30:], "10.19.0.2"
		}
	}
}

func (a *account) find(id string) *machine {
	a.pass()
	for _, m := range a.machines {
		if m.doc["id"] == id {
			return m
		}
	}
	return nil
}

func (a *account) list(*http.Request) (int, any) {
	a.pass()
	all := []any{}
	for _, m := range a.machines {
		all = append(all, m.doc)
	}
	return data(all)
}

func (a *account) get(r *http.Request) (int, any) {
	if m := a.find(r.PathValue("id")); m != nil {
		return data(m.doc)
	}
	return refuse(404, "global/object-does-not-exist", "Specified instance does not exist.")
}

func (a *account) launch(r *http.Request) (int, any) {
	var in struct {
		Region, Type, Name string
		Keys               []string
		Tags               []any
	}
	var raw map[string]json.RawMessage
	if err := json.NewDecoder(r.Body).Decode(&raw); err != nil {
		return refuse(400, "global/invalid-parameters", err.Error())
	}
	for key, to := range map[string]any{"region_name": &in.Region, "instance_type_name": &in.Type, "name": &in.Name, "ssh_key_names": &in.Keys, "tags": &in.Tags} {
		if err := json.Unmarshal(raw[key], to); err != nil {
			return refuse(400, "global/invalid-parameters", err.Error())
		}
	}
	known := slices.ContainsFunc(a.keys, func(k map[string]any) bool { return len(in.Keys) == 1 && k["name"] == in.Keys[0] })
	switch {
	case len(in.Keys) != 1:
		return refuse(400, "global/invalid-parameters", "Exactly one SSH key must be specified.")
	case !known, typeDoc(in.Type) == nil, !slices.Contains(regionNames, in.Region):
		return refuse(404, "global/object-does-not-exist", "Region, type or SSH key does not exist.")
	case a.capacity[in.Type] == 0:
		return refuse(400, "instance-operations/launch/insufficient-capacity", "Not enough capacity to fulfill launch request.")
	}
	a.capacity[in.Type]--
	return data(map[string]any{"instance_ids": []any{a.add(in.Region, in.Type, in.Name, in.Keys[0], in.Tags)}})
}

// add makes a machine and returns its id.
func (a *account) add(in, typ, name, key string, tags []any) string {
	a.next++
	id := fmt.Sprintf("%032x", a.next*16)
	able := map[string]any{"available": true}
	a.machines = append(a.machines, &machine{typ: typ, launched: time.Now(), doc: map[string]any{
		"id": id, "name": name, "status": "booting", "ssh_key_names": []any{key}, "file_system_names": []any{},
		"region": region(in), "instance_type": typeDoc(typ), "tags": tags,
		"actions": map[string]any{"migrate": able, "rebuild": able, "restart": able, "cold_reboot": able, "terminate": able},
	}})
	return id
}

func (a *account) terminate(r *http.Request) (int, any) {
	var in struct {
		IDs []string `json:"instance_ids"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return refuse(400, "global/invalid-parameters", err.Error())
	}
	ended := []any{}
	for _, id := range in.IDs {
		m := a.find(id)
		if m == nil {
			return refuse(404, "global/object-does-not-exist", "Specified instance does not exist.")
		}
		if m.ending.IsZero() {
			m.ending = time.Now()
		}
		a.pass()
		ended = append(ended, m.doc)
	}
	return data(map[string]any{"terminated_instances": ended})
}

func (a *account) listKeys(*http.Request) (int, any) {
	all := []any{}
	for _, k := range a.keys {
		all = append(all, k)
	}
	return data(all)
}

func (a *account) addKey(r *http.Request) (int, any) {
	var in map[string]any
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return refuse(400, "global/invalid-parameters", err.Error())
	}
	if slices.ContainsFunc(a.keys, func(k map[string]any) bool { return k["name"] == in["name"] }) {
		return refuse(400, "global/invalid-parameters", "An SSH key of this name exists.")
	}
	a.next++
	k := map[string]any{"id": fmt.Sprintf("%032x", a.next*16), "name": in["name"], "public_key": in["public_key"]}
	a.keys = append(a.keys, k)
	return data(k)
}

func (a *account) deleteKey(r *http.Request) (int, any) {
	before := len(a.keys)
	a.keys = slices.DeleteFunc(a.keys, func(k map[string]any) bool { return k["id"] == r.PathValue("id") })
	if len(a.keys) == before {
		return refuse(404, "global/not-found", "The requested resource was not found.")
	}
	return data(map[string]any{})
}
