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
				"then": b.reference(c.typ),
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

// Forms of scalars: what YAML 1.1 makes of unquoted words is accepted where the parser does.
func word() map[string]any { return map[string]any{"type": []string{"string", "number"}} }
func whole() map[string]any {
	return map[string]any{"anyOf": []any{map[string]any{"type": "integer"}, map[string]any{"type": "string", "pattern": `^\s*[+-]?[0-9_]+(\.0*)?\s*$`}}}
}
func number() map[string]any {
	return map[string]any{"anyOf": []any{map[string]any{"type": "number"}, map[string]any{"type": "string", "pattern": `^\s*[+-]?[0-9_.]+([eE][+-]?[0-9]+)?\s*$`}}}
}
func truth() map[string]any {
	return map[string]any{"anyOf": []any{map[string]any{"type": "boolean"}, map[string]any{"enum": []any{0, 1}},
		map[string]any{"type": "string", "pattern": `^(?i:0|off|f|false|n|no|1|on|t|true|y|yes)$`}}}
}
func either(forms ...any) map[string]any { return map[string]any{"anyOf": forms} }
func kinds(names ...string) map[string]any {
	return map[string]any{"type": names}
}

// short are the forms of types that may be written in other ways than as an object. A
// trailing object form is added where the type is a struct with fields.
func short(t reflect.Type) (form map[string]any, object bool) {
	duration := either(kinds("integer", "number"), map[string]any{"type": "string", "pattern": `^\s*([0-9]+ *[smhdw]?|-?[0-9]+|off)\s*$`})
	size := either(kinds("number"), map[string]any{"type": "string"})
	switch t {
	case reflect.TypeFor[Duration](), reflect.TypeFor[OffDuration](), reflect.TypeFor[IdleDuration](), reflect.TypeFor[InactivityDuration]():
		return either(duration, kinds("boolean")), false
	case reflect.TypeFor[Memory]():
		return size, false
	case reflect.TypeFor[MemoryRange]():
		return either(size, bounds(size)), false
	case reflect.TypeFor[IntRange]():
		return either(kinds("integer", "number", "string"), bounds(whole())), false
	case reflect.TypeFor[CPU](): // an object may be a range too
		return either(kinds("integer", "number", "string"), bounds(whole())), true
	case reflect.TypeFor[GPU](), reflect.TypeFor[Disk]():
		return kinds("integer", "number", "string"), true
	case reflect.TypeFor[FleetNodes]():
		return either(kinds("integer", "string"), map[string]any{"type": "object", "additionalProperties": false,
			"properties": map[string]any{"min": orNull(whole()), "target": orNull(whole()), "max": orNull(whole())}}), false
	case reflect.TypeFor[Blocks]():
		return either(whole(), map[string]any{"const": "auto"}), false
	case reflect.TypeFor[PythonVersion](), reflect.TypeFor[UnixUser](), reflect.TypeFor[Shell]():
		return word(), false
	case reflect.TypeFor[Env]():
		return either(map[string]any{"type": "array", "items": kinds("string")}, map[string]any{"type": "object", "additionalProperties": kinds("string", "number", "object", "null")}), false
	case reflect.TypeFor[Tags]():
		return map[string]any{"type": []string{"object", "null"}, "additionalProperties": kinds("string", "number")}, false
	case reflect.TypeFor[PortMapping]():
		return kinds("integer", "number", "string"), true
	case reflect.TypeFor[Mount](), reflect.TypeFor[InstanceSelector](), reflect.TypeFor[Model]():
		return kinds("string", "object"), false
	case reflect.TypeFor[EntityRef]():
		return kinds("string", "number", "object"), false
	case reflect.TypeFor[FileMapping](), reflect.TypeFor[Repo](), reflect.TypeFor[SSHHost]():
		return word(), true
	case reflect.TypeFor[GatewayRef]():
		return kinds("boolean", "string", "integer", "object"), false
	case reflect.TypeFor[HTTPS]():
		return either(truth(), map[string]any{"const": "auto"}), false
	case reflect.TypeFor[RetryOption]():
		return either(truth(), map[string]any{"$ref": "#/$defs/retry"}), false
	case reflect.TypeFor[Schedule](), reflect.TypeFor[Router](), reflect.TypeFor[RateKey](), reflect.TypeFor[Certificate](), reflect.TypeFor[BackendOptions]():
		return kinds("object"), false
	}
	return nil, t.Kind() == reflect.Struct
}

func bounds(of any) map[string]any {
	return map[string]any{"type": "object", "additionalProperties": false, "properties": map[string]any{"min": orNull(of), "max": orNull(of)}}
}

func orNull(form any) map[string]any { return either(form, kinds("null")) }

type schemaBuilder struct {
	defs  map[string]any
	texts map[string]string
}

// reference describes a type once, under its name.
func (b *schemaBuilder) reference(t reflect.Type) map[string]any {
	name := strings.ToLower(t.Name()[:1]) + t.Name()[1:]
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
		if text := b.texts[t.Name()+"."+name]; text != "" {
			form["description"] = text
		}
		if has(tag, "req") {
			*required = append(*required, name)
		}
		props[name] = form
	}
	if t == reflect.TypeFor[Service]() { // groups may come as a list of replicas
		props["replicas"] = either(props["replicas"], map[string]any{"type": "array", "items": kinds("object")})
	}
	if t == reflect.TypeFor[GPU]() { // one name, and a version in one piece
		props["name"] = either(props["name"], kinds("string", "number", "null"))
		props["compute_capability"] = either(props["compute_capability"], kinds("string", "number", "null"))
	}
	if t == reflect.TypeFor[ReplicaGroup]() {
		props["count"] = b.form(reflect.TypeFor[IntRange](), "")
	}
}

// form describes one value.
func (b *schemaBuilder) form(t reflect.Type, tag string) map[string]any {
	if t.Kind() == reflect.Pointer {
		return b.form(t.Elem(), tag)
	}
	if t == reflect.TypeFor[RetryOption]() && b.defs["retry"] == nil {
		b.defs["retry"] = map[string]any{"type": "object", "additionalProperties": false, "properties": map[string]any{
			"on_events": orNull(map[string]any{"type": "array", "items": map[string]any{"enum": []string{"no-capacity", "interruption", "error"}}}),
			"duration":  orNull(b.form(reflect.TypeFor[Duration](), "")),
		}}
	}
	form, object := short(t)
	switch {
	case form != nil && object:
		return either(form, b.reference(t))
	case form != nil:
		return form
	case object:
		return b.reference(t)
	}
	return b.scalar(t, tag)
}

func (b *schemaBuilder) scalar(t reflect.Type, tag string) map[string]any {
	words, isEnum := text(tag, "enum")
	switch t.Kind() {
	case reflect.String:
		if isEnum {
			return map[string]any{"enum": strings.Split(words, "|")}
		}
		return word()
	case reflect.Bool:
		return truth()
	case reflect.Int, reflect.Int64:
		return whole()
	case reflect.Float64:
		return number()
	case reflect.Slice:
		item := ""
		if isEnum {
			item = "enum=" + words
		}
		return map[string]any{"type": "array", "items": b.form(t.Elem(), item)}
	}
	return map[string]any{} // anything
}

// MarshalIndent writes the schema for people and files.
func (s Schema) MarshalIndent() ([]byte, error) { return json.MarshalIndent(s, "", "  ") }
