package config

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

func compileSchema(t testing.TB, kind string) *jsonschema.Schema {
	t.Helper()
	s, err := SchemaOf(kind)
	if err != nil {
		t.Fatal(err)
	}
	data, err := s.MarshalIndent()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	compiled, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

// plainOf is a YAML document as the JSON that editors check.
func plainOf(t *testing.T, name string, yml []byte) any {
	t.Helper()
	n, errs := parseYAML(name, yml)
	if errs != nil {
		t.Fatal(errs)
	}
	data, err := json.Marshal(n.input())
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// Whatever the parser takes, the schema takes.
func TestSchemaTakesValid(t *testing.T) {
	s := compileSchema(t, "configuration")
	goldenDir(t, "valid", func(t *testing.T, name string, yml, _ []byte) {
		if _, err := Parse(name, yml); err != nil || name == "valid/124-task-env-map-inf" { // JSON has no infinity
			return
		}
		if err := s.Validate(plainOf(t, name, yml)); err != nil {
			t.Errorf("%v\n%s", err, yml)
		}
	})
}

// loose are structural mistakes of the golden data that the schema lets pass.
var loose = map[string]string{
	"invalid/058-task-commands-date-item":           "JSON has no dates",
	"invalid/062-task-image-date":                   "JSON has no dates",
	"invalid/064-task-name-timestamp":               "JSON has no dates",
	"invalid/121-task-env-date-value":               "JSON has no dates",
	"invalid/134-task-env-bool-key":                 "JSON's keys are texts",
	"invalid/096-task-priority-inf":                 "JSON has no infinity",
	"invalid/097-task-priority-nan":                 "JSON has no such number",
	"invalid/303-task-max-price-nan":                "JSON has no such number",
	"invalid/151-task-ports-float-whole":            "80.0 is the integer 80 in JSON Schema",
	"invalid/236-task-resources-cpu-fraction-range": "the grammar of CPUs is not one of patterns",
	"invalid/272-task-resources-gpu-count-fraction": "the grammar of GPUs is not one of patterns",
	"invalid/369-task-instances-mixed":              "which fields go together is a rule",
	"invalid/414-service-port-mapping-over":         "a pattern does not know numbers",
	"invalid/453-service-rate-limits-burst-huge":    "numbers of JSON are not whole beyond 53 bits",
	"invalid/542-fleet-nodes-empty-string":          "the pattern of counts has open ends",
}

// The mistakes that editors should show: unknown and missing fields, wrong types and words,
// bounds. Rules over several fields, and grammars, are the parser's.
func TestSchemaRefuses(t *testing.T) {
	structural := []string{"extra_forbidden", "missing", "enum", "literal_error", "model_type", "dict_type", "list_type", "string_type", "bool_type",
		"bool_parsing", "int_type", "int_parsing", "int_from_float", "float_type", "float_parsing", "finite_number", "greater_than", "greater_than_equal",
		"less_than_equal", "too_short", "too_long", "string_too_short", "string_pattern_mismatch", "union_tag_invalid", "union_tag_not_found"}
	s := compileSchema(t, "configuration")
	goldenDir(t, "invalid", func(t *testing.T, name string, yml, want []byte) {
		var w struct{ Type string }
		if err := json.Unmarshal(want, &w); err != nil {
			t.Fatal(err)
		}
		_, unreadable := parseYAML(name, yml) // an alias of itself is no JSON
		if !slices.Contains(structural, w.Type) || accepted[name] != "" || unreadable != nil {
			return
		}
		if ok := s.Validate(plainOf(t, name, yml)) == nil; ok != (loose[name] != "") {
			t.Errorf("accepted: %v, expected: %q\n%s", ok, loose[name], yml)
		}
	})
}

// What our schema has beyond the recorded one, and the other way round, by the end of the path.
var (
	moreFields = map[string]string{
		".retry.scope":      "an option of ours",
		"resources.cpu.min": "the older form of a count",
		"resources.cpu.max": "the older form of a count",
		".groups[].count":   "the older name of replicas",
		".replicas[].":      "the older place of groups",
		".groups[].count.":  "the older name of replicas",
	}
	moreWords = map[string]string{
		".retry.scope ":                "an option of ours",
		".backends[] local":            "a built-in backend here",
		"_duration off":                "offered by editors, where the recorded one only allows it",
		".groups[].router.type sglang": "the word of the wire",
		".replicas[].":                 "the older place of groups",
	}
	fewerRequired = map[string]string{
		".instances[].":      "the three forms of a selector are one",
		"fleet.nodes.min":    "it has a default",
		"fleet.nodes.target": "it has a default",
		".groups[].replicas": "its older name is count",
	}
	moreRequired = map[string]string{
		"gateway.certificate.type":   "it tells the forms apart",
		"gateway.load_balancer.type": "the parser requires it",
		".rate_limits[].key.type":    "it tells the forms apart",
		".replicas[].":               "the older place of groups",
		"volume.backend":             "it tells the forms apart",
	}
)

// Every field, word and requirement of the recorded schema is in ours, so that editors
// complete and check as much. Presets are the original client's.
func TestSchemaShape(t *testing.T) {
	files, err := golden()
	if err != nil {
		t.Fatal(err)
	}
	theirs := anyOf(t, files["configuration.schema.json"]).(map[string]any)
	s, err := SchemaOf("configuration")
	if err != nil {
		t.Fatal(err)
	}
	ours := anyOf(t, mustJSON(t, s)).(map[string]any)
	want, got := newShape(theirs), newShape(ours)
	for word, ref := range theirs["discriminator"].(map[string]any)["mapping"].(map[string]any) {
		if word != "preset" {
			want.add(map[string]any{"$ref": ref}, word)
		}
	}
	for _, branch := range ours["allOf"].([]any) {
		b := branch.(map[string]any)
		word := b["if"].(map[string]any)["properties"].(map[string]any)["type"].(map[string]any)["const"].(string)
		got.add(b["then"], word)
	}
	compareShapes(t, want, got)
}

func TestProfilesSchemaShape(t *testing.T) {
	files, err := golden()
	if err != nil {
		t.Fatal(err)
	}
	theirs := anyOf(t, files["profiles.schema.json"]).(map[string]any)
	s, err := SchemaOf("profiles")
	if err != nil {
		t.Fatal(err)
	}
	ours := anyOf(t, mustJSON(t, s)).(map[string]any)
	want, got := newShape(theirs), newShape(ours)
	want.add(theirs, "")
	got.add(ours, "")
	compareShapes(t, want, got)
}

func compareShapes(t *testing.T, want, got *shape) {
	t.Helper()
	compareSets(t, "fields", want.fields, got.fields, nil, moreFields)
	compareSets(t, "words", want.words, got.words, nil, moreWords)
	compareSets(t, "required fields", want.required, got.required, fewerRequired, moreRequired)
}

// shape is what a schema says about the paths of a document.
type shape struct {
	defs                    map[string]any
	fields, words, required map[string]bool
}

func newShape(schema map[string]any) *shape {
	return &shape{schema["$defs"].(map[string]any), map[string]bool{}, map[string]bool{}, map[string]bool{}}
}

func (s *shape) add(form any, path string) {
	f, ok := form.(map[string]any)
	if !ok {
		return
	}
	if ref, ok := f["$ref"].(string); ok {
		s.add(s.defs[ref[strings.LastIndexByte(ref, '/')+1:]], path)
	}
	for _, key := range []string{"anyOf", "oneOf", "allOf"} {
		list, _ := f[key].([]any)
		for _, part := range list {
			s.add(part, path)
		}
	}
	s.add(f["items"], path+"[]")
	s.add(f["additionalProperties"], path+".*")
	enum, _ := f["enum"].([]any)
	for _, w := range append(enum, f["const"]) {
		if w, ok := w.(string); ok {
			s.words[path+" "+w] = true
		}
	}
	required, _ := f["required"].([]any)
	for _, name := range required {
		s.required[path+"."+name.(string)] = true
	}
	props, _ := f["properties"].(map[string]any)
	for name, p := range props {
		s.fields[path+"."+name] = true
		s.add(p, path+"."+name)
	}
}

func compareSets(t *testing.T, what string, want, got map[string]bool, fewer, more map[string]string) {
	t.Helper()
	excused := func(path string, excuses map[string]string) bool {
		for part := range excuses {
			if strings.Contains(path, part) {
				return true
			}
		}
		return false
	}
	for _, path := range sortedKeys(want) {
		if !got[path] && !excused(path, fewer) {
			t.Errorf("%s: %s is missing", what, path)
		}
	}
	for _, path := range sortedKeys(got) {
		if !want[path] && !excused(path, more) {
			t.Errorf("%s: %s is not in the recorded schema", what, path)
		}
	}
}

func TestProfilesSchema(t *testing.T) {
	s := compileSchema(t, "profiles")
	if err := s.Validate(plainOf(t, "x", []byte("profiles:\n  - name: a\n    max_price: 2\n    spot_policy: auto\n"))); err != nil {
		t.Error(err)
	}
	if s.Validate(plainOf(t, "x", []byte("profiles:\n  - name: a\n    max_prize: 2\n"))) == nil {
		t.Error("an unknown field was accepted")
	}
}

// Every description belongs to a field, and every field has one.
func TestFieldTexts(t *testing.T) {
	data, err := SchemaOf("configuration")
	if err != nil {
		t.Fatal(err)
	}
	text, _ := data.MarshalIndent()
	profiles, _ := SchemaOf("profiles")
	more, _ := profiles.MarshalIndent()
	text = append(text, more...)
	for key, doc := range fieldDocs() {
		quoted, _ := json.Marshal(doc)
		if !bytes.Contains(text, quoted) {
			t.Errorf("%s is no field", key)
		}
	}
	defs := data["$defs"].(map[string]any)
	for _, name := range sortedKeys(defs) {
		for field, form := range defs[name].(map[string]any)["properties"].(map[string]any) {
			if form.(map[string]any)["description"] == nil {
				t.Errorf("%s.%s has no description", name, field)
			}
		}
	}
}
