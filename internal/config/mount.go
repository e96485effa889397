package config

import (
	"encoding/json"
	"path"
	"reflect"
	"strings"
)

// Mount binds a network volume (Names) or a directory of the instance (InstancePath).
type Mount struct {
	Names        []string // alternatives; empty for an instance mount
	nameList     bool     // given as a list
	InstancePath string
	Optional     bool
	Path         string
}

// MarshalJSON writes the form that is set.
func (m Mount) MarshalJSON() ([]byte, error) {
	if m.InstancePath != "" {
		return json.Marshal(instanceMount{m.InstancePath, m.Path, m.Optional})
	}
	var name any = m.Names
	if !m.nameList && len(m.Names) == 1 {
		name = m.Names[0]
	}
	return json.Marshal(struct {
		Name any    `json:"name"`
		Path string `json:"path"`
	}{name, m.Path})
}

// UnmarshalJSON reads every form.
func (m *Mount) UnmarshalJSON(data []byte) error { return decodeStored(data, m) }

func (m *Mount) decodeNode(d *decoder, n *node, loc []any) {
	switch {
	case n.kind == stringKind:
		if _, ok := d.text(n, loc); !ok {
			return
		}
		src, dst, ok := strings.Cut(n.text, ":")
		if !ok || strings.Contains(dst, ":") {
			d.reject(n, loc, "invalid mount point format: %s", n.text)
			return
		}
		m.Path = d.mountPath(n, loc, dst)
		if strings.Contains(src, "/") {
			m.InstancePath = d.mountPath(n, loc, src)
			return
		}
		if src == "" {
			d.reject(n, loc, "empty volume name: %s", n.text)
		}
		m.Names = []string{src}
	case n.kind == mapKind && n.get("instance_path") != nil:
		var p instanceMount
		before := len(d.problems)
		d.structure(n, loc, reflect.ValueOf(&p).Elem())
		if len(d.problems) > before {
			return
		}
		m.InstancePath = d.mountPath(n, loc, p.InstancePath)
		m.Path = d.mountPath(n, loc, p.Path)
		m.Optional = p.Optional
	case n.kind == mapKind:
		var p volumeMount
		before := len(d.problems)
		d.structure(n, loc, reflect.ValueOf(&p).Elem())
		if len(d.problems) > before {
			return
		}
		m.Names, m.nameList = p.Name.names, p.Name.list
		m.Path = d.mountPath(n, loc, p.Path)
	default:
		d.add(n, loc, "model_type", "Input should be source:target or an object")
	}
}

// The objects that a mount is written as.
type (
	instanceMount struct {
		InstancePath string `json:"instance_path" cfg:"req"`
		Path         string `json:"path" cfg:"req"`
		Optional     bool   `json:"optional"`
	}
	volumeMount struct {
		Name nameOrNames `json:"name" cfg:"req"`
		Path string      `json:"path" cfg:"req"`
	}
)

type nameOrNames struct {
	names []string
	list  bool
}

func (v *nameOrNames) decodeNode(d *decoder, n *node, loc []any) {
	items := []*node{n}
	if n.kind == listKind {
		items, v.list = n.list, true
	}
	for i, item := range items {
		s, ok := d.text(item, at(loc, i))
		if ok && s == "" {
			d.reject(item, loc, "empty volume name")
		}
		v.names = append(v.names, s)
	}
	if len(items) == 0 {
		d.reject(n, loc, "empty list of volume names")
	}
}

func (d *decoder) mountPath(n *node, loc []any, p string) string {
	switch {
	case p == "":
		d.reject(n, loc, "empty path")
	case !strings.HasPrefix(p, "/"):
		d.reject(n, loc, "path must be absolute: %s", p)
	case strings.Contains("/"+p+"/", "/../"):
		d.reject(n, loc, ".. are not allowed: %s", p)
	}
	clean := path.Clean(p)
	if strings.HasPrefix(p, "//") && !strings.HasPrefix(p, "///") {
		clean = "/" + clean // two leading slashes are a root of their own in POSIX
	}
	return clean
}
