package server

import "strings"

// example is a value that fits a schema: what is required or, of an object that requires
// nothing, all but lists, which are filters that may exclude each other. name is the field
// that has it; texts are named after it.
func (s *schemas) example(form map[string]any, name string) any {
	if ref, ok := form["$ref"].(string); ok {
		key := strings.TrimPrefix(ref, componentsAt)
		if v, ok := exampleConfigurations()[key]; ok {
			return v
		}
		return s.example(s.component(key), name)
	}
	if forms, ok := form["anyOf"].([]any); ok {
		return s.example(forms[0].(map[string]any), name)
	}
	if given, ok := form["examples"].([]any); ok {
		return given[0]
	}
	if words, ok := form["enum"].([]string); ok {
		return words[0]
	}
	kind := form["type"]
	if kinds, ok := kind.([]string); ok { // the last one is how it is meant: numbers are taken for texts
		kind = kinds[len(kinds)-1]
	}
	switch kind {
	case "object":
		return s.exampleObject(form)
	case "array":
		return []any{s.example(form["items"].(map[string]any), name)}
	case "boolean":
		return false
	case "integer", "number":
		return 1
	case "string":
		if form["format"] == "uuid" {
			return "11111111-2222-4333-8444-555555555555"
		}
		return name
	}
	return nil
}

func (s *schemas) exampleObject(form map[string]any) map[string]any {
	props, _ := form["properties"].(map[string]any)
	required, _ := form["required"].([]string)
	if required == nil {
		for name, form := range props {
			if !isList(form.(map[string]any)) {
				required = append(required, name)
			}
		}
	}
	out := map[string]any{}
	for _, name := range required {
		out[name] = s.example(props[name].(map[string]any), name)
	}
	return out
}

// isList says that a form is a list, or a list or null.
func isList(form map[string]any) bool {
	if forms, ok := form["anyOf"].([]any); ok {
		form = forms[0].(map[string]any)
	}
	return form["type"] == "array"
}

// exampleConfigurations are configurations as short as they make sense, by the names of their
// schemas.
func exampleConfigurations() map[string]any {
	return map[string]any{
		"task":    map[string]any{"type": "task", "commands": []any{"nvidia-smi"}, "resources": map[string]any{"gpu": "24GB"}},
		"fleet":   map[string]any{"type": "fleet", "nodes": 1, "resources": map[string]any{"gpu": "24GB"}},
		"profile": map[string]any{"name": "default"},
	}
}
