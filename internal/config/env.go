package config

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"sync"
)

// EnvValue is a variable's value, or the name of the caller's variable that holds it.
type EnvValue struct {
	Value string
	// From names a variable of the caller; Value is then not known yet.
	From string
}

// MarshalJSON writes a string, or {"key": name} for an unresolved one.
func (v EnvValue) MarshalJSON() ([]byte, error) {
	if v.From != "" {
		return json.Marshal(map[string]string{"key": v.From})
	}
	return json.Marshal(v.Value)
}

// Env are environment variables by name.
type Env map[string]EnvValue

// Unresolved lists the names that still wait for the caller's environment, sorted.
func (e Env) Unresolved() []string {
	var names []string
	for _, k := range sortedKeys(e) {
		if e[k].From != "" {
			names = append(names, k)
		}
	}
	return names
}

// Values returns the resolved variables.
func (e Env) Values() map[string]string {
	m := make(map[string]string, len(e))
	for k, v := range e {
		m[k] = v.Value
	}
	return m
}

// UnmarshalJSON reads every form.
func (e *Env) UnmarshalJSON(data []byte) error { return decodeStored(data, e) }

var envItem = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^([a-zA-Z_][a-zA-Z0-9_]*)(=.*$|$)`)
})

// ParseEnvItem reads NAME=value, or NAME, which is taken from the caller.
func ParseEnvItem(s string) (name string, v EnvValue, err error) {
	if !envItem().MatchString(s) {
		return "", EnvValue{}, fmt.Errorf("%s is not NAME=value or NAME", s)
	}
	name, value, ok := strings.Cut(s, "=")
	if !ok {
		return name, EnvValue{From: name}, nil
	}
	return name, EnvValue{Value: value}, nil
}

func (e *Env) decodeNode(d *decoder, n *node, loc []any) {
	*e = Env{}
	switch n.kind {
	case listKind:
		for i, item := range n.list {
			if item.kind != stringKind {
				d.add(item, at(loc, i), "string_type", "Input should be a valid string")
				continue
			}
			if _, ok := d.text(item, at(loc, i)); !ok {
				continue
			}
			name, v, err := ParseEnvItem(item.text)
			if err != nil {
				d.add(item, at(loc, i), "string_pattern_mismatch", "String should match pattern '%s'", envItem())
				continue
			}
			if _, again := (*e)[name]; again {
				d.reject(item, at(loc, i), "Duplicate environment variable: %s", item.text)
				continue
			}
			(*e)[name] = v
		}
	case mapKind:
		for _, k := range n.keys {
			if !d.stringKey(n, loc, k) {
				continue
			}
			v := n.values[k]
			if v.kind == mapKind {
				var ref struct {
					Key string `json:"key" cfg:"req"`
				}
				d.structure(v, at(loc, k), reflect.ValueOf(&ref).Elem())
				(*e)[k] = EnvValue{From: ref.Key}
				continue
			}
			if s, ok := d.text(v, at(loc, k)); ok {
				(*e)[k] = EnvValue{Value: s}
			}
		}
	default:
		d.add(n, loc, "dict_type", "Input should be a list of NAME=value or a mapping")
	}
}
