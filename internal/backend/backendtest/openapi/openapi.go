// Package openapi holds doubles of providers to the providers' own published API
// descriptions: every request that a backend sends and every answer that a double gives
// must fit. Without it a double would only show that a backend agrees with its author.
package openapi

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Spec is an API description, OpenAPI 3.1, whose schemas are JSON Schema as they are.
// It is safe for concurrent use.
type Spec struct {
	mu       sync.Mutex // for the compiler
	compiler *jsonschema.Compiler
	paths    []path
}

type path struct {
	template string
	match    *regexp.Regexp
	methods  map[string]operation
}

type operation struct {
	Parameters []struct {
		Name     string `json:"name"`
		In       string `json:"in"`
		Required bool   `json:"required"`
	} `json:"parameters"`
	Body *struct {
		Content map[string]any `json:"content"`
	} `json:"requestBody"`
	Responses map[string]struct {
		Content map[string]any `json:"content"`
	} `json:"responses"`
}

const resource = "spec.json"

// Load reads a gzipped JSON description.
func Load(t testing.TB, file string) *Spec {
	t.Helper()
	s, err := load(file)
	if err != nil {
		t.Fatalf("load %s: %v", file, err)
	}
	return s
}

func load(file string) (*Spec, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(z)
	if err != nil {
		return nil, err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	closeObjects(doc)
	s := &Spec{compiler: jsonschema.NewCompiler()}
	if err := s.compiler.AddResource(resource, doc); err != nil {
		return nil, err
	}
	var in struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, err
	}
	for template, item := range in.Paths {
		p := path{template: template, match: templatePattern(template), methods: map[string]operation{}}
		for method, raw := range item {
			var op operation
			if json.Unmarshal(raw, &op) == nil { // other keys of a path are no operations
				p.methods[strings.ToUpper(method)] = op
			}
		}
		s.paths = append(s.paths, p)
	}
	// What has no parameters goes first: /a/b before /a/{id}.
	slices.SortFunc(s.paths, func(a, b path) int {
		return strings.Compare(strings.ReplaceAll(a.template, "{", "~"), strings.ReplaceAll(b.template, "{", "~"))
	})
	return s, nil
}

// closeObjects makes every object of the description refuse members that it does not name,
// so that a misspelt optional field is found.
func closeObjects(node any) {
	switch n := node.(type) {
	case map[string]any:
		_, named := n["properties"].(map[string]any)
		_, open := n["additionalProperties"]
		_, composed := n["allOf"]
		if n["type"] == "object" && named && !open && !composed {
			n["additionalProperties"] = false
		}
		for _, v := range n {
			closeObjects(v)
		}
	case []any:
		for _, v := range n {
			closeObjects(v)
		}
	}
}

var parameter = regexp.MustCompile(`\\\{[^/]+\\\}`)

func templatePattern(template string) *regexp.Regexp {
	return regexp.MustCompile("^" + parameter.ReplaceAllString(regexp.QuoteMeta(template), `[^/]+`) + "$")
}

// Check puts the description between a backend and its double. What does not fit fails the
// test and, if it is the request, is answered with 400. Answers with 429 or 5xx, which
// descriptions tend to leave out, are not checked.
func (s *Spec) Check(t testing.TB, double http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the client is gone
		}
		p, op, err := s.request(r, body)
		if err != nil {
			t.Errorf("request %s %s: %v", r.Method, r.URL, err)
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		rec := httptest.NewRecorder()
		double.ServeHTTP(rec, r)
		if err := s.response(p, r.Method, op, rec); err != nil {
			t.Errorf("answer of the double to %s %s: %v", r.Method, r.URL, err)
		}
		maps.Copy(w.Header(), rec.Header())
		w.WriteHeader(rec.Code)
		_, _ = w.Write(rec.Body.Bytes()) // the client may be gone
	})
}

func (s *Spec) request(r *http.Request, body []byte) (string, operation, error) {
	i := slices.IndexFunc(s.paths, func(p path) bool { return p.match.MatchString(r.URL.EscapedPath()) })
	if i < 0 {
		return "", operation{}, fmt.Errorf("the description has no such path")
	}
	p := s.paths[i]
	op, ok := p.methods[r.Method]
	if !ok {
		return "", op, fmt.Errorf("%s has no method %s", p.template, r.Method)
	}
	if err := query(op, r.URL.Query()); err != nil {
		return "", op, err
	}
	if op.Body == nil {
		if len(body) > 0 {
			return "", op, fmt.Errorf("takes no body, got %s", body)
		}
		return p.template, op, nil
	}
	if got := r.Header.Get("Content-Type"); got != "application/json" {
		return "", op, fmt.Errorf("Content-Type is %q", got)
	}
	return p.template, op, s.fits(body, "paths", p.template, strings.ToLower(r.Method), "requestBody", "content", "application/json", "schema")
}

func query(op operation, got url.Values) error {
	for _, p := range op.Parameters {
		if p.In != "query" {
			continue
		}
		if p.Required && !got.Has(p.Name) {
			return fmt.Errorf("the query lacks %s", p.Name)
		}
		got.Del(p.Name)
	}
	for name := range got {
		return fmt.Errorf("the query has an unknown %s", name)
	}
	return nil
}

func (s *Spec) response(path, method string, op operation, rec *httptest.ResponseRecorder) error {
	status := fmt.Sprint(rec.Code)
	if rec.Code == http.StatusTooManyRequests || rec.Code >= 500 {
		return nil
	}
	answer, ok := op.Responses[status]
	if !ok {
		return fmt.Errorf("status %s is not described", status)
	}
	if len(answer.Content) == 0 {
		return nil
	}
	return s.fits(rec.Body.Bytes(), "paths", path, strings.ToLower(method), "responses", status, "content", "application/json", "schema")
}

// fits checks a document against the schema at a pointer into the description.
func (s *Spec) fits(doc []byte, pointer ...string) error {
	for i, p := range pointer {
		pointer[i] = url.PathEscape(strings.NewReplacer("~", "~0", "/", "~1").Replace(p))
	}
	s.mu.Lock()
	schema, err := s.compiler.Compile(resource + "#/" + strings.Join(pointer, "/"))
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("the description is broken: %w", err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
	if err != nil {
		return fmt.Errorf("body %q: %w", doc, err)
	}
	return schema.Validate(v)
}
