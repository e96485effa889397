package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"dstack/internal/backend/all"
	"dstack/internal/config"
)

// configurationPage describes the fields of configuration files, from their schema.
func configurationPage() (string, error) {
	s, err := config.SchemaOf("configuration")
	if err != nil {
		return "", err
	}
	p, err := config.SchemaOf("profiles")
	if err != nil {
		return "", err
	}
	defs := map[string]any{}
	for _, schema := range []config.Schema{s, p} {
		data, err := json.Marshal(schema["$defs"])
		if err != nil {
			return "", err
		}
		if err := json.Unmarshal(data, &defs); err != nil {
			return "", err
		}
	}
	var b strings.Builder
	b.WriteString("# Configuration files\n\n" + generated)
	b.WriteString("`dstack validate` checks a file and prints its normal form; `dstack schema` prints the JSON Schema from which this page is made.\n\n")
	fmt.Fprintf(&b, "`backends` takes every name that dstack 0.22 knows; this build has %s. What fields do together: [fleets](../fleets.md),\n"+
		"[tasks with several nodes](../multi-node.md), [retry and schedules](../retry-and-schedules.md), [services](../services.md).\n", backends())
	first := []string{"task", "dev-environment", "service", "fleet", "volume-zoned", "volume-runpod", "volume-kubernetes", "volume-unsized", "gateway", "profiles", "profile"}
	rest := slices.Sorted(maps.Keys(defs))
	for _, name := range append(first, slices.DeleteFunc(rest, func(n string) bool { return slices.Contains(first, n) })...) {
		def, _ := defs[name].(map[string]any)
		props, _ := def["properties"].(map[string]any)
		fmt.Fprintf(&b, "\n## %s\n\n| Field | Value | |\n|---|---|---|\n", name)
		required, _ := def["required"].([]any)
		for _, field := range slices.Sorted(maps.Keys(props)) {
			form, _ := props[field].(map[string]any)
			text, _ := form["description"].(string)
			if slices.Contains(required, any(field)) {
				text = strings.TrimSpace("Required. " + text)
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", field, value(form), strings.ReplaceAll(text, "|", "\\|"))
		}
	}
	return b.String(), nil
}

// backends names those of this build.
func backends() string {
	var names []string
	for _, t := range all.Types(nil) {
		names = append(names, "`"+t.Name+"`")
	}
	return strings.Join(names, ", ")
}

// value is a form in words.
func value(form map[string]any) string {
	switch {
	case form["$ref"] != nil:
		name := strings.TrimPrefix(form["$ref"].(string), "#/$defs/")
		return fmt.Sprintf("[%s](#%s)", name, strings.ToLower(name))
	case form["const"] != nil:
		return fmt.Sprintf("`%v`", form["const"])
	case form["enum"] != nil:
		var words []string
		for _, w := range form["enum"].([]any) {
			words = append(words, fmt.Sprintf("`%v`", w))
		}
		return strings.Join(words, ", ")
	case form["anyOf"] != nil:
		return alternatives(form["anyOf"].([]any))
	case form["type"] == "array":
		items, _ := form["items"].(map[string]any)
		return "list of " + value(items)
	}
	switch t := form["type"].(type) {
	case string:
		return t
	case []any:
		var words []string
		for _, w := range t {
			if w != "null" {
				words = append(words, fmt.Sprint(w))
			}
		}
		return strings.Join(words, " or ")
	}
	return "any"
}

// alternatives leaves out other spellings of scalars, which the schema marks.
func alternatives(forms []any) string {
	var words []string
	for _, f := range forms {
		form, _ := f.(map[string]any)
		w := value(form)
		if w == "null" || w == "" || form["$comment"] != nil {
			continue
		}
		if !slices.Contains(words, w) {
			words = append(words, w)
		}
	}
	return strings.Join(words, " or ")
}
