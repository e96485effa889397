// Package specdiff says in words what changed between two specifications.
package specdiff

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Labels of fields that are not just their name in words.
var labels = map[string]string{
	"repo_id":        "Repo ID",
	"repo_code_hash": "Repo files",
	"repo_data":      "Repo state (branch, commit, or other)",
	"ssh_key_pub":    "Public SSH key",
}

// An Item is one changed field, with those of its children that changed.
type Item struct {
	Name     string
	Children []Item
}

// Spec compares two specifications as they look on the wire. Keys in ignore are left out, at all levels.
// The children of configuration and profile are named; other fields only as a whole.
func Spec(from, to any, ignore ...string) ([]Item, error) {
	a, err := object(from)
	if err != nil {
		return nil, err
	}
	b, err := object(to)
	if err != nil {
		return nil, err
	}
	strip(a, ignore)
	strip(b, ignore)
	var items []Item
	for _, key := range changed(a, b) {
		items = append(items, item(key, a[key], b[key]))
	}
	return items, nil
}

// Fields returns the names of the fields in which two objects differ.
func Fields(from, to any, ignore ...string) ([]string, error) {
	a, err := object(from)
	if err != nil {
		return nil, err
	}
	b, err := object(to)
	if err != nil {
		return nil, err
	}
	strip(a, ignore)
	strip(b, ignore)
	return changed(a, b), nil
}

func item(key string, a, b any) Item {
	ma, oka := a.(map[string]any)
	mb, okb := b.(map[string]any)
	switch key {
	case "configuration":
		if oka && okb && ma["type"] != mb["type"] {
			return Item{Name: "Configuration type"}
		}
		return Item{"Configuration properties:", named(changed(ma, mb))}
	case "profile":
		if !oka || !okb {
			return Item{Name: "Profile"}
		}
		return Item{"Profile properties:", named(changed(ma, mb))}
	}
	if l, ok := labels[key]; ok {
		return Item{Name: l}
	}
	words := strings.ReplaceAll(key, "_", " ")
	return Item{Name: strings.ToUpper(words[:1]) + words[1:]}
}

func named(keys []string) []Item {
	items := make([]Item, len(keys))
	for i, k := range keys {
		items[i].Name = k
	}
	return items
}

// Text writes items as a list, two spaces deeper for each level.
func Text(items []Item) string {
	var b strings.Builder
	write(&b, items, "")
	return b.String()
}

func write(b *strings.Builder, items []Item, indent string) {
	for _, it := range items {
		fmt.Fprintf(b, "%s- %s\n", indent, it.Name)
		write(b, it.Children, indent+"  ")
	}
}

func object(v any) (map[string]any, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("compare specifications: %w", err)
	}
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("compare specifications: %w", err)
	}
	return m, nil
}

// strip removes keys and empty values, so that an absent field equals null.
func strip(m map[string]any, ignore []string) {
	for k, v := range m {
		switch v := v.(type) {
		case nil:
			delete(m, k)
			continue
		case map[string]any:
			strip(v, ignore)
		case []any:
			for _, e := range v {
				if em, ok := e.(map[string]any); ok {
					strip(em, ignore)
				}
			}
		}
		if slices.Contains(ignore, k) {
			delete(m, k)
		}
	}
}

func changed(a, b map[string]any) []string {
	var keys []string
	for k := range a {
		if !reflect.DeepEqual(a[k], b[k]) {
			keys = append(keys, k)
		}
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}
