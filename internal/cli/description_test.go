package cli

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// description is what the published server says of the requests that it takes, OpenAPI 3.1.
// It is safe for concurrent use.
type description struct {
	mu       sync.Mutex // for the compiler
	compiler *jsonschema.Compiler
	bodies   []body
}

// body is what an operation takes.
type body struct {
	method, path string
	match        *regexp.Regexp
}

var loadDescription = sync.OnceValues(func() (*description, error) {
	f, err := os.Open("../server/testdata/openapi.json.gz")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	zr, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	doc, err := jsonschema.UnmarshalJSON(zr)
	if err != nil {
		return nil, err
	}
	// The published server fills in a target that is left out, as its own client leaves it out.
	nodes := doc.(map[string]any)["components"].(map[string]any)["schemas"].(map[string]any)["FleetNodesSpec-Input"].(map[string]any)
	nodes["required"] = []any{"min"}
	d := &description{compiler: jsonschema.NewCompiler()}
	if err := d.compiler.AddResource("https://published.invalid/openapi.json", doc); err != nil {
		return nil, err
	}
	data, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	var in struct {
		Paths map[string]map[string]struct {
			Body *struct {
				Content map[string]any `json:"content"`
			} `json:"requestBody"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, err
	}
	for path, methods := range in.Paths {
		for method, op := range methods {
			if op.Body != nil && op.Body.Content["application/json"] != nil {
				pattern := regexp.MustCompile(`\\\{\w+\\\}`).ReplaceAllString(regexp.QuoteMeta(path), "[^/]+")
				d.bodies = append(d.bodies, body{method, path, regexp.MustCompile("^" + pattern + "$")})
			}
		}
	}
	return d, nil
})

func publishedDescription(t *testing.T) *description {
	t.Helper()
	d, err := loadDescription()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// fits says what of a request's body the published server does not take, nil where it takes none.
func (d *description) fits(method, path string, data []byte) error {
	for _, b := range d.bodies {
		if b.method != strings.ToLower(method) || !b.match.MatchString(path) {
			continue
		}
		at := "https://published.invalid/openapi.json#"
		for _, key := range []string{"paths", b.path, b.method, "requestBody", "content", "application/json", "schema"} {
			at += "/" + url.PathEscape(strings.NewReplacer("~", "~0", "/", "~1").Replace(key))
		}
		d.mu.Lock()
		schema, err := d.compiler.Compile(at)
		d.mu.Unlock()
		if err != nil {
			return err
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		if err != nil {
			return err
		}
		return schema.Validate(doc)
	}
	return nil
}
