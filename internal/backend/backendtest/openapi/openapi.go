// Package openapi holds doubles of providers to the providers' own published API
// descriptions: every request that a backend sends and every answer that a double gives
// must fit. Without it a double would only show that a backend agrees with its author.
package openapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"dstack/internal/apidoc"
)

// Spec is a provider's description. It is safe for concurrent use.
type Spec struct{ *apidoc.Document }

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
	doc, err := apidoc.Read(file)
	if err != nil {
		return nil, err
	}
	closeObjects(doc)
	d, err := apidoc.New(doc)
	return &Spec{d}, err
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
	var op operation
	template := s.Path(r.URL.EscapedPath())
	if template == "" {
		return "", op, fmt.Errorf("the description has no such path")
	}
	described := s.Operation(r.Method, template)
	if described == nil {
		return "", op, fmt.Errorf("%s has no method %s", template, r.Method)
	}
	data, err := json.Marshal(described)
	if err == nil {
		err = json.Unmarshal(data, &op)
	}
	if err != nil {
		return "", op, fmt.Errorf("the description is broken: %w", err)
	}
	if err := query(op, r.URL.Query()); err != nil {
		return "", op, err
	}
	if op.Body == nil {
		if len(body) > 0 {
			return "", op, fmt.Errorf("takes no body, got %s", body)
		}
		return template, op, nil
	}
	if got := r.Header.Get("Content-Type"); got != "application/json" {
		return "", op, fmt.Errorf("Content-Type is %q", got)
	}
	schema, err := s.Request(r.Method, template)
	return template, op, fits(schema, err, body)
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
	schema, err := s.Response(method, path, status, "application/json")
	return fits(schema, err, rec.Body.Bytes())
}

// fits holds a document to a schema, if there is one and nothing is wrong with it.
func fits(schema *jsonschema.Schema, err error, doc []byte) error {
	if err != nil {
		return err
	}
	if schema == nil {
		return errors.New("it has no schema")
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
	if err != nil {
		return fmt.Errorf("body %q: %w", doc, err)
	}
	return schema.Validate(v)
}
