package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"dstack/internal/apidoc"
)

// ownContract holds what is sent and answered to our own description.
type ownContract struct{ *apidoc.Document }

var own = func() func(testing.TB) *ownContract {
	load := sync.OnceValues(loadOwnContract)
	return func(t testing.TB) *ownContract {
		t.Helper()
		c, err := load()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
}()

func loadOwnContract() (*ownContract, error) {
	data, err := json.Marshal(describe((&Server{}).routes()))
	if err != nil {
		return nil, err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	d, err := apidoc.New(doc, &uuid4)
	return &ownContract{d}, err
}

// check says what of an answer does not fit the description, which is of the answers to
// clients of today. What no route answers is not in it.
func (c *ownContract) check(method, path string, header http.Header, status int, contentType string, body []byte) error {
	template := c.Path(path)
	v, known := clientVersion(header)
	if c.Operation(method, template) == nil || strings.HasPrefix(path, "/proxy/") || known && v.before(0, 22, 0) || status >= http.StatusInternalServerError {
		return nil
	}
	media, _, _ := strings.Cut(contentType, ";")
	schema, err := c.Response(method, template, strconv.Itoa(status), media)
	if err != nil {
		return err
	}
	if schema == nil {
		return fmt.Errorf("status %d with %s is not described", status, media)
	}
	if media != "application/json" {
		return nil
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return err
	}
	return schema.Validate(doc)
}

// TestOpenAPIOperations holds each operation to its route: bodies, parameters, answers.
func TestOpenAPIOperations(t *testing.T) {
	doc := own(t).Root
	ids := map[string]string{}
	for _, rt := range (&Server{}).routes() {
		method, path := rt.split()
		op := doc["paths"].(map[string]any)[path].(map[string]any)[strings.ToLower(method)].(map[string]any)
		if _, has := op["requestBody"]; has != rt.hasBody() {
			t.Errorf("%s: described with a body: %v, has one: %v", rt.pattern, has, rt.hasBody())
		}
		id := op["operationId"].(string)
		if ids[id] != "" {
			t.Errorf("%s and %s are both %s", rt.pattern, ids[id], id)
		}
		ids[id] = rt.pattern
		if _, secured := op["security"]; secured != (rt.who != public || rt.proxy) {
			t.Errorf("%s: security described: %v", rt.pattern, secured)
		}
		responses := op["responses"].(map[string]any)
		for _, status := range []string{"200", "400"} {
			if responses[status] == nil {
				t.Errorf("%s: no response %s", rt.pattern, status)
			}
		}
	}
}

// TestOpenAPIServed asks the server for the description and the page that shows it.
func TestOpenAPIServed(t *testing.T) {
	s := newServer(t)
	a := s.call(t, "GET", "/openapi.json", "", nil)
	got, err := jsonschema.UnmarshalJSON(bytes.NewReader(a.Body))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(any(own(t).Root), got); diff != "" {
		t.Errorf("served is another description:\n%s", diff)
	}
	if a := s.call(t, "GET", "/api/docs", "", nil); a.Status != http.StatusOK || !bytes.Contains(a.Body, []byte("/openapi.json")) {
		t.Errorf("the page: %d %s", a.Status, short(a.Body))
	}
}

// TestOpenAPIForms looks at operations that are unlike the others.
func TestOpenAPIForms(t *testing.T) {
	type form struct{ In, Out, Query, Status []string }
	for path, want := range map[string]form{
		"get /metrics":  {Out: []string{"text/plain"}, Status: []string{"200", "400", "403", "404"}},
		"get /api/docs": {Out: []string{"text/html"}, Status: []string{"200", "400"}},
		"post /api/project/{project}/logs/stream": {In: []string{"application/json"}, Out: []string{"application/x-ndjson"},
			Status: []string{"200", "400", "401", "403", "404", "413", "422"}},
		"post /api/project/{project}/repos/upload_code": {In: []string{"multipart/form-data"}, Out: []string{"application/json"},
			Query: []string{"repo_id"}, Status: []string{"200", "400", "401", "403", "404", "422"}},
		"get /api/project/{project}/metrics/job/{run}": {Out: []string{"application/json"},
			Query:  []string{"run_id", "replica_num", "job_num", "limit", "after", "before"},
			Status: []string{"200", "400", "401", "403", "404", "422"}},
	} {
		method, path, _ := strings.Cut(path, " ")
		op := own(t).Root["paths"].(map[string]any)[path].(map[string]any)[method].(map[string]any)
		responses := op["responses"].(map[string]any)
		got := form{Out: contentTypes(responses["200"]), In: contentTypes(op["requestBody"]), Status: slices.Sorted(maps.Keys(responses))}
		parameters, _ := op["parameters"].([]any)
		for _, p := range parameters {
			if p := p.(map[string]any); p["in"] == "query" {
				got.Query = append(got.Query, p["name"].(string))
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", method, path, diff)
		}
	}
}

func contentTypes(v any) []string {
	m, _ := v.(map[string]any)
	c, _ := m["content"].(map[string]any)
	return slices.Sorted(maps.Keys(c))
}

// TestOpenAPIReferences checks that each component is a schema and used, and each reference
// leads to one.
func TestOpenAPIReferences(t *testing.T) {
	c := own(t)
	schemas := c.Root["components"].(map[string]any)["schemas"].(map[string]any)
	used := map[string]bool{}
	each(c.Root, func(m map[string]any) {
		ref, ok := m["$ref"].(string)
		if !ok {
			return
		}
		name := strings.TrimPrefix(ref, componentsAt)
		if used[name] = true; schemas[name] == nil {
			t.Errorf("%s leads nowhere", ref)
		}
	})
	for name := range schemas {
		if _, err := c.Schema("components", "schemas", name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !used[name] {
			t.Errorf("nothing refers to %s", name)
		}
	}
}

// TestOpenAPITakesRequests validates well-formed requests of each kind, and some that are not.
func TestOpenAPITakesRequests(t *testing.T) {
	c := own(t)
	for _, rq := range readRequests(t) {
		schema, err := c.Request("POST", c.Path(rq.Path))
		if err != nil || schema == nil {
			t.Errorf("%s: a body is sent, but described is %v, %v", rq.Path, schema, err)
			continue
		}
		if err := schema.Validate(rq.Body); err != nil {
			t.Errorf("%s: %v", rq.Path, err)
		}
	}
	for _, bad := range []struct{ path, body string }{
		{"/api/users/create", `{"username":"x"}`},
		{"/api/users/create", `{"username":"x","global_role":"king"}`},
		{"/api/users/create", `{"username":"x","global_role":"user","more":1}`},
		{"/api/users/list", `{"limit":-1}`},
		{"/api/projects/main/set_members", `{"members":[{"username":"x"}]}`},
		{"/api/project/main/runs/get_plan", `{"run_spec":{}}`},
		{"/api/project/main/runs/get_plan", `{"run_spec":{"configuration":{"type":"task","commandz":[]}}}`},
		{"/api/project/main/backends/create", `{"type":"nosuch"}`},
	} {
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(bad.body))
		if err != nil {
			t.Fatal(err)
		}
		schema, err := c.Request("POST", c.Path(bad.path))
		if err != nil {
			t.Fatal(err)
		}
		if schema.Validate(v) == nil {
			t.Errorf("%s: %s fits", bad.path, bad.body)
		}
	}
}

// TestOpenAPIExamples sends the example of each request: it fits the description, and the
// server can read it.
func TestOpenAPIExamples(t *testing.T) {
	c := own(t)
	s := newServer(t)
	for _, rt := range s.routes() {
		method, path := rt.split()
		if !rt.hasBody() || rt.in == reflect.TypeFor[upload]() {
			continue
		}
		schema, err := c.Request(method, path)
		if err != nil {
			t.Fatal(err)
		}
		op := c.Root["paths"].(map[string]any)[path].(map[string]any)[strings.ToLower(method)].(map[string]any)
		example := op["requestBody"].(map[string]any)["content"].(map[string]any)["application/json"].(map[string]any)["example"]
		if err := schema.Validate(example); err != nil {
			t.Errorf("%s: %v", rt.pattern, err)
		}
		if rt.in == reflect.TypeFor[settings]() {
			continue // the server would ask the provider
		}
		a := s.call(t, method, strings.ReplaceAll(path, "{project}", "main"), adminToken, example)
		if a.Status == http.StatusUnprocessableEntity {
			t.Errorf("%s: %s is not taken: %s", rt.pattern, marshal(example), a.Body)
		}
	}
}

// TestOpenAPIHoldsRecordings checks that answers of the published server fit our description
// too: clients that are made from it read both.
func TestOpenAPIHoldsRecordings(t *testing.T) {
	c := own(t)
	for _, path := range []string{"testdata/exchanges.json.gz", "testdata/commands.json.gz"} {
		for _, g := range readRecordings(t, path) {
			for i, rec := range g.Exchanges {
				header := http.Header{}
				for k, v := range rec.Headers {
					header.Set(k, v)
				}
				if rec.Status != http.StatusOK || !strings.HasPrefix(rec.Type, "application/json") {
					continue
				}
				if err := c.check(rec.Method, rec.Path, header, rec.Status, rec.Type, marshal(rec.Want)); err != nil {
					t.Errorf("%s/%02d %s %s: %v", g.Name, i, rec.Method, rec.Path, err)
				}
			}
		}
	}
}
