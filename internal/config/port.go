package config

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// PortMapping forwards LocalPort of the user's machine to ContainerPort; nil picks any.
type PortMapping struct {
	LocalPort     *int `json:"local_port" cfg:"gt=0,max=65535"`
	ContainerPort int  `json:"container_port" cfg:"req,gt=0,max=65535"`
}

// UnmarshalJSON reads every form.
func (p *PortMapping) UnmarshalJSON(data []byte) error { return decodeStored(data, p) }

func (p *PortMapping) decodeNode(d *decoder, n *node, loc []any) {
	switch n.kind {
	case mapKind:
		type plain PortMapping
		d.structure(n, loc, reflect.ValueOf((*plain)(p)).Elem())
	case intKind:
		if v, ok := d.integer(n, loc); ok && d.port(n, loc, v) {
			port := int(v)
			*p = PortMapping{LocalPort: &port, ContainerPort: port}
		}
	case stringKind:
		m, err := ParsePort(n.text)
		if err != nil {
			d.reject(n, loc, "%v", err)
			return
		}
		*p = m
	default:
		d.add(n, loc, "int_type", "Input should be a port number, \"local:container\" or an object")
	}
}

func (d *decoder) port(n *node, loc []any, v int64) bool {
	if v < 1 {
		d.add(n, loc, "greater_than", "Input should be greater than 0")
		return false
	}
	if v > 65535 {
		hint := ""
		if n.isSexagesimal() {
			hint = ": " + n.sexagesimalHint()
		}
		d.add(n, loc, "less_than_equal", "Input should be less than or equal to 65535%s", hint)
		return false
	}
	return true
}

// ParsePort reads "n", "local:container" and "*:container".
func ParsePort(s string) (PortMapping, error) {
	local, container, ok := strings.Cut(s, ":")
	if !ok {
		local, container = s, s
	}
	c, err := portNumber(container)
	if err != nil {
		return PortMapping{}, fmt.Errorf("%s: %w", s, err)
	}
	if local == "*" && ok {
		return PortMapping{ContainerPort: c}, nil
	}
	l, err := portNumber(local)
	if err != nil {
		return PortMapping{}, fmt.Errorf("%s: %w", s, err)
	}
	return PortMapping{LocalPort: &l, ContainerPort: c}, nil
}

func portNumber(s string) (int, error) {
	if s == "" || !allDigits(s) || len(s) > 9 {
		return 0, fmt.Errorf("a port is a number, \"local:container\" or \"*:container\"")
	}
	n, _ := strconv.Atoi(s)
	if n < 1 || n > 65535 {
		return 0, fmt.Errorf("a port lies between 1 and 65535")
	}
	return n, nil
}
