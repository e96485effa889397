// Package config reads what people write: configurations, profiles and the server's file, in
// YAML or as the bodies of requests. It knows their grammar, their rules and their normal
// form, says everything that is wrong at once and where, and describes all of it as JSON
// Schema.
package config

import (
	"cmp"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
)

// Any is exactly one configuration of any type that a file may hold.
type Any struct {
	Run     *AnyRun
	Fleet   *Fleet
	Volume  *Volume
	Gateway *Gateway

	// Warnings are what the file may not mean as it is written.
	Warnings []Problem

	file string
	root *node // where the values of the configuration are, for Check
}

// Type is the word in the configuration.
func (a *Any) Type() string {
	switch {
	case a.Run != nil:
		return a.Run.Type()
	case a.Fleet != nil:
		return TypeFleet
	case a.Volume != nil:
		return TypeVolume
	case a.Gateway != nil:
		return TypeGateway
	}
	return ""
}

// MarshalJSON writes the configuration that is set.
func (a Any) MarshalJSON() ([]byte, error) {
	switch {
	case a.Run != nil:
		return json.Marshal(a.Run)
	case a.Fleet != nil:
		return json.Marshal(a.Fleet)
	case a.Volume != nil:
		return json.Marshal(a.Volume)
	case a.Gateway != nil:
		return json.Marshal(a.Gateway)
	}
	return nil, fmt.Errorf("config: empty configuration")
}

func (a *Any) decodeNode(d *decoder, n *node, loc []any) {
	typ, ok := d.tag(n, loc, "type", TypeDevEnvironment, TypeTask, TypeService, TypeFleet, TypeGateway, "preset", TypeVolume)
	if !ok {
		return
	}
	switch typ {
	case TypeFleet:
		a.Fleet = &Fleet{}
		a.Fleet.decodeNode(d, n, at(loc, typ))
	case TypeVolume:
		a.Volume = &Volume{}
		a.Volume.decodeNode(d, n, at(loc, typ))
	case TypeGateway:
		a.Gateway = &Gateway{}
		a.Gateway.decodeNode(d, n, at(loc, typ))
	case "preset":
		d.reject(n.get("type"), loc, "presets are made by the original client only; this one does not have them")
	default:
		a.Run = &AnyRun{}
		a.Run.decodeNode(d, n, loc)
	}
}

// Parse reads one configuration file. All problems are returned at once as *Errors.
func Parse(file string, data []byte) (Any, error) {
	var a Any
	n, err := readYAML(file, data, &a)
	if err != nil {
		return Any{}, err
	}
	a.file, a.root, a.Warnings = file, n, warnings(file, n)
	return a, nil
}

// Profiles is the content of a profiles file.
type Profiles struct {
	Profiles []Profile `json:"profiles" cfg:"req"`
}

// ParseProfiles reads profiles.yml.
func ParseProfiles(file string, data []byte) (Profiles, error) {
	var p Profiles
	if _, err := readYAML(file, data, &p); err != nil {
		return Profiles{}, err
	}
	return p, nil
}

// DecodeYAML reads a document into v with the rules of configurations: unknown keys are
// refused, every problem is reported at once with its place.
func DecodeYAML(file string, data []byte, v any) error {
	_, err := readYAML(file, data, v)
	return err
}

func readYAML(file string, data []byte, v any) (*node, error) {
	n, errs := parseYAML(file, data)
	if errs != nil {
		return nil, errs
	}
	d := &decoder{file: file}
	d.value(n, nil, reflect.ValueOf(v).Elem(), "")
	return n, d.finish(n)
}

// finish returns the problems of a document in its order, nil when there are none.
func (d *decoder) finish(root *node) error {
	if len(d.problems) == 0 {
		return nil
	}
	d.locate(root)
	slices.SortStableFunc(d.problems, func(a, b Problem) int { return cmp.Or(a.Line-b.Line, a.Col-b.Col) })
	return &Errors{d.problems}
}

// locate gives a place to problems that a rule over several fields reported: that of the
// deepest value on their path.
func (d *decoder) locate(root *node) {
	for i := range d.problems {
		p := &d.problems[i]
		if p.Line > 0 {
			continue
		}
		n := root
		for _, part := range p.Loc {
			if next := n.at(part); next != nil {
				n = next
			}
		}
		p.Line, p.Col = n.line, n.col
	}
}
