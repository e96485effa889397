package apidoc

import (
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

func TestDocument(t *testing.T) {
	const text = `{"paths": {
		"/runs/{name}": {"get": {"responses": {"200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Run"}}}}}}},
		"/runs/list": {"post": {"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}}}},
		"components": {"schemas": {"Run": {"type": "object", "required": ["id"], "properties": {"id": {"type": "string", "format": "uuid"}}}}}}`
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	lax, err := New(doc)
	if err != nil {
		t.Fatal(err)
	}
	strict, err := New(doc, &jsonschema.Format{Name: "any", Validate: func(any) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{"/runs/list": "/runs/list", "/runs/list?x=1": "/runs/list", "/runs/a": "/runs/{name}", "/runs/": "", "/runs/a/b": "", "/other": ""} {
		if got := lax.Path(address); got != want {
			t.Errorf("%s is served by %q, want %q", address, got, want)
		}
	}
	if lax.Operation("GET", "/runs/{name}") == nil || lax.Operation("POST", "/runs/{name}") != nil {
		t.Error("the operations of /runs/{name} are others")
	}
	if s, err := lax.Request("POST", "/runs/list"); err != nil || s == nil {
		t.Errorf("the request of a list: %v, %v", s, err)
	}
	if s, err := lax.Request("GET", "/runs/{name}"); err != nil || s != nil {
		t.Errorf("the request of none: %v, %v", s, err)
	}
	for _, c := range []struct {
		doc  *Document
		id   string
		fits bool
	}{{lax, "x", true}, {strict, "x", false}, {strict, "27bb4e3a-4a2c-4c5e-8f5c-000000000001", true}} {
		s, err := c.doc.Response("GET", "/runs/{name}", "200", "application/json")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Validate(map[string]any{"id": c.id}); (err == nil) != c.fits {
			t.Errorf("%s: %v", c.id, err)
		}
	}
	if _, err := New([]any{}); err == nil {
		t.Error("a list is taken for a description")
	}
	if _, err := Read("nosuch.gz"); err == nil {
		t.Error("a file that is not there is read")
	}
}
