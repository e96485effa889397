package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
)

// Differing names the fields in which two objects of one type differ on the wire, in
// alphabetical order. A field that is null is like one that is left out.
func Differing(a, b any) ([]string, error) {
	x, err := fieldsOf(a)
	if err != nil {
		return nil, err
	}
	y, err := fieldsOf(b)
	if err != nil {
		return nil, err
	}
	var names []string
	for name, value := range x {
		if !bytes.Equal(value, y[name]) {
			names = append(names, name)
		}
	}
	for name := range y {
		if _, ok := x[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

func fieldsOf(v any) (map[string]json.RawMessage, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("compare objects: %w", err)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, fmt.Errorf("compare objects: %w", err)
	}
	for name, value := range fields {
		if string(value) == "null" {
			delete(fields, name)
		}
	}
	return fields, nil
}
