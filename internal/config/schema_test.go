package config

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

func compileSchema(t *testing.T, kind string) *jsonschema.Schema {
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
		if _, err := Parse(name, yml); err != nil {
			return
		}
		if err := s.Validate(plainOf(t, name, yml)); err != nil {
			t.Errorf("%v\n%s", err, yml)
		}
	})
}

// The mistakes that editors should show.
func TestSchemaRefuses(t *testing.T) {
	s := compileSchema(t, "configuration")
	for _, yml := range []string{
		"type: tusk\n", "commands: [a]\n", "type: task\ncommandz: [a]\n", "type: task\nnodes: many\n", "type: task\nresources: {gpux: 1}\n",
		"type: service\ncommands: [a]\n", "type: task\nspot_policy: never\n", "type: fleet\nssh_config: {user: u}\n", "type: task\nmax_duration: soon\n",
		"type: dev-environment\nide: emacs\n", "type: task\nprivileged: maybe\n", "type: volume\nsize: {min: 1}\n",
	} {
		if s.Validate(plainOf(t, "x", []byte(yml))) == nil {
			t.Errorf("accepted: %s", yml)
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
	for _, name := range []string{"task", "devEnvironment", "service", "fleet", "volume", "gateway", "resources", "sSHParams", "sSHHost"} {
		for field, form := range defs[name].(map[string]any)["properties"].(map[string]any) {
			if m := form.(map[string]any); m["description"] == nil && !strings.HasPrefix(field, "replicas") {
				t.Errorf("%s.%s has no description", name, field)
			}
		}
	}
}
