package openapi

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const description = `{
  "openapi": "3.1.0", "info": {"title": "Pets", "version": "1"},
  "paths": {
    "/pets": {
      "get": {"parameters": [{"name": "page", "in": "query", "required": true, "schema": {"type": "string"}}],
        "responses": {"200": {"description": "", "content": {"application/json": {"schema": {"type": "array", "items": {"$ref": "#/components/schemas/Pet"}}}}}}},
      "post": {"requestBody": {"required": true, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Pet"}}}},
        "responses": {"204": {"description": ""}}}
    },
    "/pets/{id}": {"get": {"responses": {"200": {"description": "", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Pet"}}}}}}},
    "/pets/best": {"get": {"responses": {"204": {"description": ""}}}}
  },
  "components": {"schemas": {"Pet": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer"}}}}}
}`

func pets(t *testing.T) *Spec {
	t.Helper()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := io.WriteString(z, description); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "pets.json.gz")
	if err := os.WriteFile(file, packed.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(t, file)
}

// recorder is a testing.TB that keeps failures to itself.
type recorder struct {
	testing.TB
	failures []string
}

func (r *recorder) Errorf(format string, args ...any) {
	r.failures = append(r.failures, fmt.Sprintf(format, args...))
}

func TestCheck(t *testing.T) {
	spec := pets(t)
	for name, tt := range map[string]struct {
		method, url, body string
		status            int    // of the double
		answer            string // of the double
		want              string // in the failure, "" for none
	}{
		"list":                  {"GET", "/pets?page=1", "", 200, `[{"name": "Rex", "age": 3}]`, ""},
		"required parameter":    {"GET", "/pets", "", 200, `[]`, "lacks page"},
		"unknown parameter":     {"GET", "/pets?page=1&size=2", "", 200, `[]`, "unknown size"},
		"unknown path":          {"GET", "/dogs", "", 200, `[]`, "no such path"},
		"unknown method":        {"PUT", "/pets", "", 200, `[]`, "no method PUT"},
		"parameter in the path": {"GET", "/pets/7", "", 200, `{"name": "Rex"}`, ""},
		"path before parameter": {"GET", "/pets/best", "", 204, ``, ""},
		"create":                {"POST", "/pets", `{"name": "Rex"}`, 204, ``, ""},
		"missing field":         {"POST", "/pets", `{"age": 3}`, 204, ``, "name"},
		"misspelt field":        {"POST", "/pets", `{"name": "Rex", "agge": 3}`, 204, ``, "agge"},
		"too long":              {"POST", "/pets", `{"name": "Rex the Great"}`, 204, ``, "maxLength"},
		"no JSON":               {"POST", "/pets", `{`, 204, ``, "body"},
		"body of a GET":         {"GET", "/pets/7", `{}`, 200, `{"name": "Rex"}`, "takes no body"},
		"wrong answer":          {"GET", "/pets/7", "", 200, `{"name": 7}`, "answer of the double"},
		"answer with more":      {"GET", "/pets/7", "", 200, `{"name": "Rex", "x": 1}`, "answer of the double"},
		"undescribed status":    {"GET", "/pets/7", "", 404, `{}`, "404 is not described"},
		"throttled":             {"GET", "/pets/7", "", 429, `slow down`, ""},
		"broken":                {"GET", "/pets/7", "", 503, `oops`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			rec := &recorder{TB: t}
			h := spec.Check(rec, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.answer) // a recorder takes everything
			}))
			r := httptest.NewRequest(tt.method, tt.url, strings.NewReader(tt.body))
			r.Header.Set("Content-Type", "application/json")
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			failures := strings.Join(rec.failures, "\n")
			if tt.want == "" && (failures != "" || w.Code != tt.status) || tt.want != "" && !strings.Contains(failures, tt.want) {
				t.Errorf("status %d, failures %q, want %q", w.Code, failures, tt.want)
			}
		})
	}
}
