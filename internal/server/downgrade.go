package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	"dstack/internal/api"
	"dstack/internal/backend/local"
)

// release is a version: major, minor, patch.
type release [3]int

func (v release) before(major, minor, patch int) bool {
	w := release{major, minor, patch}
	for i := range v {
		if v[i] != w[i] {
			return v[i] < w[i]
		}
	}
	return false
}

// clientVersion is what a request says about its client; known is false for those that take
// the latest form: without a version, "latest", and development builds.
func clientVersion(h http.Header) (v release, known bool) {
	values := h["X-Api-Version"]
	if len(values) == 0 || values[0] == "latest" {
		return release{}, false
	}
	v, ok := parseVersion(values[0])
	return v, ok && v != (release{})
}

// fromPublished says that a request is of a released client that is not ours.
func fromPublished(h http.Header) bool {
	_, known := clientVersion(h)
	return known && h.Get(api.ExtensionsHeader) == ""
}

// reply sends v to the client of r, in the form that its version reads (http-api 3.3).
func reply(w http.ResponseWriter, r *http.Request, v any) error {
	if p, ours := v.(interface{ Published() any }); ours && fromPublished(r.Header) { // which do not show what we add
		v = p.Published()
	}
	buf := buffers.Get().(*bytes.Buffer)
	defer keepBuffer(buf)
	data, err := text(v, buf)
	if err == nil {
		data, err = shown(r.Header, data)
	}
	if err != nil {
		return fmt.Errorf("encode a response: %w", err)
	}
	send(w, http.StatusOK, data)
	return nil
}

// shown is a document in the form that the client reads.
func shown(h http.Header, data []byte) (_ []byte, err error) {
	if client, known := clientVersion(h); known && client.before(0, 21, 1) { // since then nothing changed its form
		if data, err = downgrade(client, data); err != nil {
			return nil, err
		}
	}
	if fromPublished(h) && bytes.Contains(data, []byte(`"local"`)) {
		return rewrite(data, publishedWords)
	}
	return data, nil
}

// text is the JSON of an answer, in the form that the newest clients read. It may be in buf.
func text(v any, buf *bytes.Buffer) ([]byte, error) {
	e, ok := v.(interface {
		WriteTo(io.Writer) (int64, error)
	})
	if !ok {
		return json.Marshal(v)
	}
	if _, err := e.WriteTo(buf); err != nil { // encoded already
		return nil, err
	}
	return buf.Bytes(), nil
}

// buffers are for answers that are put together from texts that others share. A page of runs takes
// half a megabyte, and clearing it for each request a quarter of the request's time.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// maxKept bounds what a buffer keeps for the next answer, in bytes.
const maxKept = 4 << 20

func keepBuffer(buf *bytes.Buffer) {
	if buf.Cap() <= maxKept {
		buf.Reset()
		buffers.Put(buf)
	}
}

// downgrade rewrites the configurations in a response, wherever they are, and groups of GPUs.
// Tasks need no such care: they always say how many nodes they have.
func downgrade(v release, data []byte) ([]byte, error) {
	return rewrite(data, func(m map[string]any) {
		if m["type"] == "service" {
			downgradeService(v, m)
		}
		if m["type"] == "gateway" && v.before(0, 21, 1) {
			orElse(m, "default", false)
		}
		if _, ok := m["wildcard_domain"]; ok {
			downgradeGateway(v, m)
		}
		if list, ok := m["fleets"].([]any); ok && v.before(0, 20, 14) {
			for i := range list {
				list[i] = reference(list[i])
			}
		}
		if list, ok := m["gpus"].([]any); ok {
			for _, group := range list { // where these clients refuse what they do not know
				if group, ok := group.(map[string]any); ok {
					delete(group, "offer_price")
				}
			}
		}
	})
}

// publishedWords says "remote", which published clients know and which is nearest, for the
// backend "local".
func publishedWords(m map[string]any) {
	if m["backend"] == local.Name {
		m["backend"] = remote
	}
	list, _ := m["backends"].([]any)
	for i, b := range list {
		switch b := b.(type) {
		case string:
			if b == local.Name {
				list[i] = remote
			}
		case map[string]any: // of a project
			if b["name"] == local.Name {
				b["name"], b["config"] = remote, map[string]any{"type": remote}
			}
		}
	}
}

const remote = "remote" // the backend of SSH hosts

// rewrite calls f with every object of a document.
func rewrite(data []byte, f func(map[string]any)) ([]byte, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var doc any
	if err := dec.Decode(&doc); err != nil {
		return nil, err
	}
	each(doc, f)
	return json.Marshal(doc)
}

func downgradeService(v release, m map[string]any) {
	if r, has := m["replicas"]; has && r == nil && v.before(0, 20, 0) { // the published server has the default too late for them
		m["replicas"] = map[string]any{"min": 1, "max": 1}
	}
	if p, has := m["probes"]; has && p == nil && v.before(0, 20, 8) {
		m["probes"] = []any{}
	}
	if h, has := m["https"]; has && h == nil && v.before(0, 20, 12) {
		m["https"] = true
	}
	if v.before(0, 20, 20) {
		m["gateway"] = reference(m["gateway"])
	}
}

// downgradeGateway writes what old clients show of a gateway: its one address, later its
// replicas, of which all was known.
func downgradeGateway(v release, m map[string]any) {
	replicas, _ := m["replicas"].([]any)
	var names []string
	config, _ := m["configuration"].(map[string]any)
	for _, r := range replicas {
		r, _ := r.(map[string]any)
		if name, ok := r["hostname"].(string); ok && name != "" {
			names = append(names, name)
		}
		if !v.before(0, 20, 25) && v.before(0, 20, 27) {
			orElse(r, "hostname", "")
			orElse(r, "region", "")
			orElse(r, "backend", config["backend"])
		}
	}
	if v.before(0, 20, 25) {
		addresses := strings.Join(names, "\n")
		m["instance_id"], m["ip_address"] = "", addresses
		orElse(m, "hostname", addresses)
	}
}

// orElse replaces a null.
func orElse(m map[string]any, key string, v any) {
	if old, has := m[key]; has && old == nil {
		m[key] = v
	}
}

// reference writes an entity as old clients name it; what is none stays as it is.
func reference(v any) any {
	m, ok := v.(map[string]any)
	if !ok {
		return v
	}
	name, ok := m["name"].(string)
	if !ok {
		return v
	}
	if project, ok := m["project"].(string); ok {
		return project + "/" + name
	}
	return name
}

// each calls f with every object of a document.
func each(v any, f func(map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		f(v)
		for _, x := range v {
			each(x, f)
		}
	case []any:
		for _, x := range v {
			each(x, f)
		}
	}
}

// oldWorkingDir is where clients before 0.19.27 expect jobs to begin.
const oldWorkingDir = "/workflow"

// upgradeSpec gives a specification of an old client the meaning that it had there.
func upgradeSpec(h http.Header, spec *api.RunSpec) {
	c := spec.Configuration.Common()
	if v, known := clientVersion(h); known && v.before(0, 19, 27) && c != nil && c.WorkingDir == nil {
		dir := oldWorkingDir
		c.WorkingDir = &dir
	}
}

// planRun is runs/get_plan. Old clients ask for offers by the plan of a task that does nothing.
func planRun(s *Server, c caller, w http.ResponseWriter, r *http.Request) error {
	var in api.GetRunPlanRequest
	if err := decode(w, r, &in); err != nil {
		return err
	}
	upgradeSpec(r.Header, &in.RunSpec)
	if v, known := clientVersion(r.Header); known && v.before(0, 21, 0) {
		t := in.RunSpec.Configuration.Task
		in.ForOffersOnly = in.ForOffersOnly || t != nil && slices.Equal(t.Commands, []string{":"})
	}
	out, err := s.runs.Plan(r.Context(), c.Scope, in)
	if err != nil {
		return err
	}
	return reply(w, r, out)
}

// applyRun is runs/apply.
func applyRun(s *Server, c caller, w http.ResponseWriter, r *http.Request) error {
	var in api.ApplyRunPlanRequest
	if err := decode(w, r, &in); err != nil {
		return err
	}
	upgradeSpec(r.Header, &in.Plan.RunSpec)
	in.Published = fromPublished(r.Header)
	in.Shown = func(data []byte) ([]byte, error) { return shown(r.Header, data) }
	out, err := s.runs.Apply(r.Context(), c.Scope, in)
	if err != nil {
		return err
	}
	return reply(w, r, out)
}
