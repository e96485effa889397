package config

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"sync"
)

//go:embed fields.txt
var fieldTexts string

// Schema is a JSON Schema (draft 2020-12).
type Schema map[string]any

// SchemaKinds are the documents that have a schema.
func SchemaKinds() []string { return []string{"configuration", "profiles"} }

// SchemaOf describes a kind of document, as editors and other tools need it. It takes every
// form that the parser takes, the short ones too; rules over several fields are the parser's.
func SchemaOf(kind string) (Schema, error) {
	b := &schemaBuilder{defs: map[string]any{}, texts: fieldDocs()}
	root := Schema{"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "dstack " + kind, "$defs": b.defs}
	switch kind {
	case "configuration":
		var types []any
		for _, c := range []struct {
			word string
			typ  reflect.Type
		}{
			{TypeTask, reflect.TypeFor[Task]()}, {TypeDevEnvironment, reflect.TypeFor[DevEnvironment]()}, {TypeService, reflect.TypeFor[Service]()},
			{TypeFleet, reflect.TypeFor[Fleet]()}, {TypeVolume, reflect.TypeFor[Volume]()}, {TypeGateway, reflect.TypeFor[Gateway]()},
		} {
			types = append(types, map[string]any{
				"if":   map[string]any{"properties": map[string]any{"type": map[string]any{"const": c.word}}},
				"then": either(b.references(objectForms(c.typ))...),
			})
		}
		root["type"], root["required"], root["allOf"] = "object", []string{"type"}, types
		root["properties"] = map[string]any{"type": map[string]any{"enum": []string{TypeTask, TypeDevEnvironment, TypeService, TypeFleet, TypeVolume, TypeGateway}}}
	case "profiles":
		root["$ref"] = b.reference(reflect.TypeFor[Profiles]())["$ref"]
	default:
		return nil, fmt.Errorf("there is no schema of %q: choose one of %s", kind, strings.Join(SchemaKinds(), ", "))
	}
	return root, nil
}

// fieldDocs maps Type.field to its description.
var fieldDocs = sync.OnceValue(func() map[string]string {
	docs := map[string]string{}
	for line := range strings.Lines(fieldTexts) {
		if key, text, ok := strings.Cut(strings.TrimSpace(line), " "); ok && !strings.HasPrefix(line, "#") {
			docs[key] = text
		}
	}
	return docs
})

type schemaBuilder struct {
	defs  map[string]any
	texts map[string]string
}

func (b *schemaBuilder) references(types []reflect.Type) []any {
	var refs []any
	for _, t := range types {
		refs = append(refs, b.reference(t))
	}
	return refs
}

// reference describes a type once, under its name.
func (b *schemaBuilder) reference(t reflect.Type) map[string]any {
	name := kebab(strings.TrimSuffix(strings.TrimSuffix(t.Name(), "Form"), "Object"))
	ref := map[string]any{"$ref": "#/$defs/" + name}
	if _, known := b.defs[name]; known {
		return ref
	}
	b.defs[name] = nil // types do not contain themselves, but may come twice
	props, required := map[string]any{}, []string{}
	b.fields(t, props, &required)
	object := map[string]any{"type": "object", "additionalProperties": false, "properties": props}
	if len(required) > 0 {
		object["required"] = required
	}
	b.defs[name] = object
	return ref
}

func (b *schemaBuilder) fields(t reflect.Type, props map[string]any, required *[]string) {
	for f := range t.Fields() {
		if f.Anonymous && f.Tag.Get("json") == "" {
			b.fields(f.Type, props, required)
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" || !f.IsExported() {
			continue
		}
		tag := f.Tag.Get("cfg")
		form := b.form(f.Type, tag)
		if f.Type.Kind() == reflect.Pointer || has(tag, "opt") {
			form = orNull(form)
		}
		if has(tag, "req") {
			*required = append(*required, name)
		}
		props[name] = form
	}
	b.more(t, props)
	for name, form := range props {
		if text := b.texts[described(t)+"."+name]; text != "" {
			form.(map[string]any)["description"] = text
		}
	}
}

// described is the type whose fields have descriptions.
func described(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[volumeBase](), reflect.TypeFor[volumeZoned](), reflect.TypeFor[volumeRunpod](), reflect.TypeFor[volumeKubernetes](), reflect.TypeFor[volumeUnsized]():
		return "Volume"
	}
	return t.Name()
}

// kebab writes SSHParams as ssh-params.
func kebab(name string) string {
	var b strings.Builder
	for i := range len(name) {
		upper := name[i] >= 'A' && name[i] <= 'Z'
		if i > 0 && upper && (name[i-1] >= 'a' || i+1 < len(name) && name[i+1] >= 'a') {
			b.WriteByte('-')
		}
		b.WriteString(strings.ToLower(name[i : i+1]))
	}
	return b.String()
}

// form describes one value.
func (b *schemaBuilder) form(t reflect.Type, tag string) map[string]any {
	if t.Kind() == reflect.Pointer {
		return b.form(t.Elem(), tag)
	}
	forms := scalarForms(t)
	for _, o := range objectForms(t) {
		forms = append(forms, b.reference(o))
	}
	switch len(forms) {
	case 0:
		return b.scalar(t, tag)
	case 1:
		return forms[0].(map[string]any)
	}
	return either(forms...)
}

func (b *schemaBuilder) scalar(t reflect.Type, tag string) map[string]any {
	words, isEnum := text(tag, "enum")
	switch t.Kind() {
	case reflect.String:
		if isEnum {
			return map[string]any{"enum": strings.Split(words, "|")}
		}
		if m, ok := option(tag, "minlen"); ok {
			return map[string]any{"type": []string{"string", "number"}, "minLength": m}
		}
		return word()
	case reflect.Bool:
		return truth()
	case reflect.Int, reflect.Int64:
		return whole(tag)
	case reflect.Float64:
		return number(tag)
	case reflect.Slice:
		item := ""
		if isEnum {
			item = "enum=" + words
		}
		list := listOf(b.form(t.Elem(), item))
		for limit, keyword := range map[string]string{"minlen": "minItems", "maxlen": "maxItems"} {
			if m, ok := option(tag, limit); ok {
				list[keyword] = m
			}
		}
		return list
	}
	return map[string]any{} // anything
}

// MarshalIndent writes the schema for people and files.
func (s Schema) MarshalIndent() ([]byte, error) { return json.MarshalIndent(s, "", "  ") }
