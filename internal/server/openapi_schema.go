package server

import (
	"encoding/json"
	"maps"
	"net/http"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"dstack/internal/api"
	"dstack/internal/backend/local"
	"dstack/internal/config"
)

// schemas collects the JSON Schemas of the types in requests and answers. The two differ, so
// that a struct which comes in both has two: requests may leave fields out but have no unknown
// ones, answers have all of their fields and, from later servers, more.
type schemas struct {
	named map[string]any
	types map[string]reflect.Type // of named
	// configs are the definitions that package config gives, by its own names.
	configs map[string]any
}

func newSchemas() *schemas {
	return &schemas{named: map[string]any{}, types: map[string]reflect.Type{}, configs: map[string]any{}}
}

// direction is whose words a schema describes.
type direction int

const (
	ofRequest direction = iota
	ofAnswer
)

func (s *schemas) request(t reflect.Type) map[string]any { return s.of(t, "", ofRequest) }
func (s *schemas) answer(t reflect.Type) map[string]any  { return s.of(t, "", ofAnswer) }

// refusal is the form of an error's body, as [Server.fail] writes it.
func (s *schemas) refusal(status int) map[string]any {
	var form map[string]any
	name := "Refusal"
	switch status {
	case http.StatusUnauthorized:
		name, form = "NotAuthenticated", map[string]any{"type": "string"}
	case http.StatusForbidden, http.StatusNotFound:
		form = s.answer(reflect.TypeFor[detail]())
	case http.StatusUnprocessableEntity:
		name, form = "InvalidRequest", s.answer(reflect.TypeFor[[]invalid]())
	default:
		name, form = "ClientError", s.answer(reflect.TypeFor[[]detail]())
	}
	s.named[name] = map[string]any{"type": "object", "required": []string{"detail"}, "properties": map[string]any{"detail": form}}
	return refTo(name)
}

// of describes the values of a type. tag holds the rules of the field that has them.
func (s *schemas) of(t reflect.Type, tag string, d direction) map[string]any {
	if form, ok := s.special(t, d); ok {
		return form
	}
	rule := rules(tag)
	switch t.Kind() {
	case reflect.Pointer:
		if t.Elem() == reflect.TypeFor[struct{}]() {
			return map[string]any{"type": "null"} // what actions without an answer return
		}
		return orNull(s.of(t.Elem(), tag, d))
	case reflect.Struct:
		return s.object(t, d)
	case reflect.Slice:
		return rule.nullable(map[string]any{"type": "array", "items": s.of(t.Elem(), rule.ofItems(), d)})
	case reflect.Map:
		return rule.nullable(map[string]any{"type": "object", "additionalProperties": s.of(t.Elem(), "", d)})
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Int, reflect.Int32, reflect.Int64:
		return rule.bound(map[string]any{"type": "integer"})
	case reflect.Uint:
		return map[string]any{"type": "integer", "minimum": 0}
	case reflect.Float64:
		return rule.bound(map[string]any{"type": "number"})
	case reflect.String:
		return rule.text()
	}
	return map[string]any{} // anything
}

// special describes types whose Go form says little of their JSON.
func (s *schemas) special(t reflect.Type, d direction) (map[string]any, bool) {
	switch t {
	case reflect.TypeFor[json.RawMessage]():
		return map[string]any{}, true
	case reflect.TypeFor[[]byte]():
		return map[string]any{"type": "string", "contentEncoding": "base64"}, true
	case reflect.TypeFor[api.Time]():
		text := map[string]any{"type": "string", "format": "date-time"}
		if d == ofAnswer {
			return text, true
		}
		return anyOf(map[string]any{"type": "string", "examples": []any{"2026-01-31T12:00:00Z"}}, map[string]any{"type": "number", "description": "Seconds since 1970"}), true
	case reflect.TypeFor[settings]():
		return map[string]any{"type": "object", "required": []string{"type"}, "properties": map[string]any{"type": backendWords()},
			"examples": []any{map[string]any{"type": "runpod", "creds": map[string]any{"type": "api_key", "api_key": "…"}}}}, true
	case reflect.TypeFor[api.BackendType]():
		if d == ofRequest {
			return backendWords(), true
		}
	}
	if t.Name() != "" && t.PkgPath() == reflect.TypeFor[config.Task]().PkgPath() {
		return moved(config.SchemaOfType(t, s.configs)).(map[string]any), true
	}
	return nil, false
}

// backendWords are the names that [knownBackend] takes.
func backendWords() map[string]any {
	return map[string]any{"enum": append(config.BackendWords(), local.Name)}
}

// object describes a struct, once if it has a name.
func (s *schemas) object(t reflect.Type, d direction) map[string]any {
	if t.Name() == "" {
		return s.fields(t, d)
	}
	name := strings.ToUpper(t.Name()[:1]) + t.Name()[1:]
	if d == ofRequest && !strings.HasSuffix(name, "Request") {
		name += "Input"
	}
	if other, taken := s.types[name]; taken && other != t {
		pkg := path.Base(t.PkgPath())
		name = strings.ToUpper(pkg[:1]) + pkg[1:] + name
	}
	if _, known := s.types[name]; !known {
		s.types[name] = t // first: a type may contain itself
		s.named[name] = s.fields(t, d)
	}
	return refTo(name)
}

func (s *schemas) fields(t reflect.Type, d direction) map[string]any {
	props, required := map[string]any{}, []string{}
	// A type that writes itself may leave out what its fields do not say.
	s.addFields(t, d, t.Implements(reflect.TypeFor[json.Marshaler]()), props, &required)
	form := map[string]any{"type": "object", "properties": props}
	if d == ofRequest {
		form["additionalProperties"] = false
	}
	if len(required) > 0 {
		form["required"] = required
	}
	return form
}

func (s *schemas) addFields(t reflect.Type, d direction, partial bool, props map[string]any, required *[]string) {
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			s.addFields(f.Type, d, partial, props, required)
			continue
		}
		if name == "" || name == "-" || !f.IsExported() {
			continue
		}
		tag := f.Tag.Get("cfg")
		props[name] = s.of(f.Type, tag, d)
		_, needed := rules(tag)["req"]
		if d == ofAnswer && !partial {
			needed = !strings.Contains(options, "omitempty") && !strings.Contains(options, "omitzero")
		}
		if needed {
			*required = append(*required, name)
		}
	}
}

// parameters describes the fields of a struct as what stands in an address.
func (s *schemas) parameters(t reflect.Type) []any {
	var list []any
	for f := range t.Fields() {
		tag, typ := f.Tag.Get("cfg"), f.Type
		if typ.Kind() == reflect.Pointer {
			typ = typ.Elem() // an address has no null
		}
		_, required := rules(tag)["req"]
		list = append(list, map[string]any{"name": f.Tag.Get("json"), "in": "query", "required": required, "schema": s.of(typ, tag, ofRequest)})
	}
	return list
}

// components are all the schemas that were referred to.
func (s *schemas) components() map[string]any {
	all := maps.Clone(s.named)
	for name := range s.configs {
		all[name] = s.component(name)
	}
	return all
}

func (s *schemas) component(name string) map[string]any {
	if form, ok := s.named[name].(map[string]any); ok {
		return form
	}
	return moved(s.configs[name]).(map[string]any)
}

// moved is a schema of package config with its references turned to where ours are.
func moved(v any) any {
	switch v := v.(type) {
	case config.Schema:
		return moved(map[string]any(v))
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, item := range v {
			if ref, ok := item.(string); ok && key == "$ref" {
				out[key] = componentsAt + strings.TrimPrefix(ref, "#/$defs/")
				continue
			}
			out[key] = moved(item)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = moved(item)
		}
		return out
	}
	return v
}

const componentsAt = "#/components/schemas/"

func refTo(name string) map[string]any { return map[string]any{"$ref": componentsAt + name} }

func anyOf(forms ...any) map[string]any {
	if len(forms) == 1 {
		return forms[0].(map[string]any)
	}
	return map[string]any{"anyOf": forms}
}

func orNull(form map[string]any) map[string]any {
	if len(form) == 0 {
		return form // anything may be null
	}
	return anyOf(form, map[string]any{"type": "null"})
}

// fieldRules are the parts of a cfg tag, by name: {"req": "", "enum": "a|b"}.
type fieldRules map[string]string

func rules(tag string) fieldRules {
	r := fieldRules{}
	for part := range strings.SplitSeq(tag, ",") {
		key, value, _ := strings.Cut(part, "=")
		r[key] = value
	}
	return r
}

// nullable is a form with null if the field may have it.
func (r fieldRules) nullable(form map[string]any) map[string]any {
	if _, ok := r["opt"]; ok {
		return orNull(form)
	}
	return form
}

// ofItems is the tag of a list's items.
func (r fieldRules) ofItems() string {
	if words, ok := r["enum"]; ok {
		return "enum=" + words
	}
	if _, ok := r["uuid"]; ok {
		return "uuid"
	}
	return ""
}

func (r fieldRules) bound(form map[string]any) map[string]any {
	for rule, keyword := range map[string]string{"min": "minimum", "max": "maximum", "gt": "exclusiveMinimum"} {
		if n, err := strconv.ParseFloat(r[rule], 64); err == nil {
			form[keyword] = n
		}
	}
	return form
}

func (r fieldRules) text() map[string]any {
	if words, ok := r["enum"]; ok {
		return map[string]any{"type": "string", "enum": slices.Collect(strings.SplitSeq(words, "|"))}
	}
	form := map[string]any{"type": "string"}
	if _, ok := r["uuid"]; ok {
		form["format"] = "uuid"
	}
	if n, err := strconv.Atoi(r["minlen"]); err == nil {
		form["minLength"] = n
	}
	return form
}
