// Package apidoc reads the description of an API, OpenAPI 3.1, whose schemas are JSON Schema as they
// are, so that tests can hold requests and answers to it.
package apidoc

import (
	"compress/gzip"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Document is a description. It is safe for concurrent use.
type Document struct {
	Root  map[string]any
	paths []path

	mu       sync.Mutex // for the compiler and the cache
	compiler *jsonschema.Compiler
	schemas  map[string]*jsonschema.Schema
}

type path struct {
	template string // as the description writes it: /runs/{name}
	match    *regexp.Regexp
}

// resource is what the compiler knows the document as.
const resource = "https://description.invalid/openapi.json"

// Read reads a gzipped description, as [New] takes it.
func Read(file string) (any, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return jsonschema.UnmarshalJSON(z)
}

// New takes a description as [jsonschema.UnmarshalJSON] reads it. With formats, also the formats of
// texts count: those that the language knows, and these.
func New(doc any, formats ...*jsonschema.Format) (*Document, error) {
	root, ok := doc.(map[string]any)
	if !ok {
		return nil, errors.New("a description is an object")
	}
	d := &Document{Root: root, compiler: jsonschema.NewCompiler(), schemas: map[string]*jsonschema.Schema{}}
	if len(formats) > 0 {
		d.compiler.AssertFormat()
	}
	for _, f := range formats {
		d.compiler.RegisterFormat(f)
	}
	paths, _ := root["paths"].(map[string]any)
	for template := range paths {
		pattern := parameter.ReplaceAllString(regexp.QuoteMeta(template), `[^/]+`)
		d.paths = append(d.paths, path{template, regexp.MustCompile("^" + pattern + "$")})
	}
	// What is written out goes before what has parameters: /a/b before /a/{id}.
	slices.SortFunc(d.paths, func(a, b path) int {
		return strings.Compare(strings.ReplaceAll(a.template, "{", "~"), strings.ReplaceAll(b.template, "{", "~"))
	})
	return d, d.compiler.AddResource(resource, doc)
}

var parameter = regexp.MustCompile(`\\\{[^/]+\\\}`)

// Path is the template of an address without its query, "" where there is none.
func (d *Document) Path(address string) string {
	address, _, _ = strings.Cut(address, "?")
	i := slices.IndexFunc(d.paths, func(p path) bool { return p.template == address || p.match.MatchString(address) })
	if i < 0 {
		return ""
	}
	return d.paths[i].template
}

// Operation is what the description says of a method at a template, nil for nothing.
func (d *Document) Operation(method, template string) map[string]any {
	op, _ := dig(d.Root, "paths", template, strings.ToLower(method)).(map[string]any)
	return op
}

// Schema is the schema at a path of keys, nil where the description has nothing.
func (d *Document) Schema(keys ...string) (*jsonschema.Schema, error) {
	if dig(d.Root, keys...) == nil {
		return nil, nil
	}
	at := resource + "#"
	for _, key := range keys {
		at += "/" + url.PathEscape(strings.NewReplacer("~", "~0", "/", "~1").Replace(key))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.schemas[at]; s != nil {
		return s, nil
	}
	s, err := d.compiler.Compile(at)
	if err != nil {
		return nil, fmt.Errorf("the description is broken: %w", err)
	}
	d.schemas[at] = s
	return s, nil
}

// Request is the schema of the JSON that an operation takes, nil if it takes none.
func (d *Document) Request(method, template string) (*jsonschema.Schema, error) {
	return d.Schema("paths", template, strings.ToLower(method), "requestBody", "content", "application/json", "schema")
}

// Response is the schema of an operation's answers with a status and a content type, nil where there
// are none.
func (d *Document) Response(method, template, status, media string) (*jsonschema.Schema, error) {
	return d.Schema("paths", template, strings.ToLower(method), "responses", status, "content", media, "schema")
}

func dig(v any, keys ...string) any {
	for _, key := range keys {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[key]
	}
	return v
}
