package config

import (
	"encoding/json"
	"math"
	"math/big"
	"reflect"
	"strings"
)

// Service is a run that answers HTTP requests.
type Service struct {
	Port        PortMapping    `json:"port" cfg:"req"`
	Gateway     *GatewayRef    `json:"gateway"`
	StripPrefix bool           `json:"strip_prefix"`
	Model       *Model         `json:"model"`
	HTTPS       *HTTPS         `json:"https"`
	Auth        bool           `json:"auth"`
	Scaling     *Scaling       `json:"scaling"`
	RateLimits  []RateLimit    `json:"rate_limits"`
	Probes      []Probe        `json:"probes" cfg:"opt"`
	Replicas    *IntRange      `json:"replicas"`
	Groups      []ReplicaGroup `json:"groups" cfg:"opt"`
	Commands    []string       `json:"commands"`
	RunCommon
}

// GatewayRef is true (the default gateway), false (none) or a gateway's name.
type GatewayRef struct {
	Enabled bool
	Ref     *EntityRef
}

// MarshalJSON writes a bool or an object.
func (g GatewayRef) MarshalJSON() ([]byte, error) {
	if g.Ref != nil {
		return json.Marshal(g.Ref)
	}
	return json.Marshal(g.Enabled)
}

func (g *GatewayRef) decodeNode(d *decoder, n *node, loc []any) {
	if b, ok := looseBool(n); ok {
		g.Enabled = b
		return
	}
	g.Ref = &EntityRef{}
	g.Ref.decodeNode(d, n, loc)
}

// HTTPS is true, false or "auto".
type HTTPS struct{ Enabled, Auto bool }

// MarshalJSON writes a bool or "auto".
func (h HTTPS) MarshalJSON() ([]byte, error) {
	if h.Auto {
		return []byte(`"auto"`), nil
	}
	return json.Marshal(h.Enabled)
}

func (h *HTTPS) decodeNode(d *decoder, n *node, loc []any) {
	if n.kind == stringKind && n.text == "auto" {
		h.Auto = true
		return
	}
	if b, ok := d.boolean(n, loc); ok {
		h.Enabled = b
	}
}

func (s *Service) setDefaults() {
	s.RunCommon.setDefaults()
	s.StripPrefix, s.Auth = true, true
	s.RateLimits, s.Commands = []RateLimit{}, []string{}
}

// decodeService reads the forms that only services have: a port as a number, replicas as
// a list of groups, a group's count.
func decodeService(d *decoder, n *node, loc []any, s *Service) {
	n = serviceForms(d, n, loc)
	if n == nil {
		return
	}
	d.structure(n, loc, reflect.ValueOf(s).Elem())
	if port := n.get("port"); port != nil && port.kind != mapKind && d.clean(loc, "port") {
		s.fixPort(d, port, at(loc, "port"))
	}
	s.check(d, n, loc)
}

func serviceForms(d *decoder, n *node, loc []any) *node {
	if v, ok := lonePort(n.get("port")); ok {
		whole := *n.get("port")
		whole.kind, whole.int = intKind, big.NewInt(v)
		n = n.clone()
		n.set("port", &whole)
	}
	replicas, groups := n.get("replicas"), n.get("groups")
	if replicas != nil && replicas.kind == listKind {
		if groups != nil && groups.kind != nullKind {
			d.reject(replicas, loc, "`replicas` and `groups` are mutually exclusive")
			return nil
		}
		c := n.clone()
		c.set("groups", replicas)
		c.set("replicas", &node{kind: nullKind})
		n, groups, replicas = c, replicas, nil
	}
	if groups == nil || groups.kind != listKind {
		return n
	}
	if replicas != nil && replicas.kind != nullKind {
		d.reject(replicas, loc, "`replicas` and `groups` are mutually exclusive")
		return nil
	}
	list := *groups
	list.list = make([]*node, len(groups.list))
	for i, g := range groups.list {
		if g.kind == mapKind && g.get("count") != nil {
			c := g.clone()
			if c.get("replicas") == nil {
				c.set("replicas", c.get("count"))
			}
			c.drop("count")
			g = c
		}
		if g.kind == mapKind && g.get("replicas") == nil {
			d.add(g, at(at(at(loc, "groups"), i), "replicas"), "missing", "Field required")
		}
		list.list[i] = g
	}
	c := n.clone()
	c.set("groups", &list)
	return c
}

// lonePort reads a service's port that is written as 8000.0 or " 8000 ".
func lonePort(n *node) (int64, bool) {
	switch {
	case n == nil:
	case n.kind == floatKind && n.float == math.Trunc(n.float) && math.Abs(n.float) < 1<<31:
		return int64(n.float), true
	case n.kind == stringKind && !strings.HasSuffix(n.text, "\n"):
		return looseInt(n.text)
	}
	return 0, false
}

// fixPort gives a service's lone port number its meaning: local port 80.
func (s *Service) fixPort(d *decoder, n *node, loc []any) {
	if n.kind == stringKind && strings.Contains(n.text, ":") {
		if s.Port.LocalPort == nil {
			d.reject(n, loc, "%s: a service's port is a number or \"local:container\"", n.text)
		}
		return
	}
	http := 80
	s.Port.LocalPort = &http
}

func (s *Service) check(d *decoder, n *node, loc []any) {
	s.RunCommon.check(d, n, loc)
	s.checkReplicas(d, n, loc)
	s.checkLists(d, n, loc)
	if !d.clean(loc) {
		return
	}
	if s.Groups == nil {
		if len(s.Commands) == 0 && !s.hasImage() {
			d.reject(n, loc, "Either `commands` or `image` must be set")
			return
		}
		scalingFits(d, n, loc, s.Replicas, s.Scaling)
		return
	}
	s.checkGroups(d, n, loc)
}

func (s *Service) checkReplicas(d *decoder, n *node, loc []any) {
	if s.Replicas == nil || !d.clean(loc, "replicas") {
		return
	}
	fixReplicas(d, n.get("replicas"), at(loc, "replicas"), s.Replicas)
}

func (s *Service) checkLists(d *decoder, n *node, loc []any) {
	prefixes := map[string]int{}
	var twice []string
	for _, r := range s.RateLimits {
		if prefixes[r.Prefix]++; prefixes[r.Prefix] == 2 {
			twice = append(twice, "'"+r.Prefix+"'")
		}
	}
	if len(twice) > 0 && d.clean(loc, "rate_limits") {
		d.reject(n.get("rate_limits"), at(loc, "rate_limits"), "Prefixes [%s] are used more than once. Each rate limit should have a unique path prefix", strings.Join(twice, ", "))
	}
	if !d.clean(loc, "probes") {
		return
	}
	seen := make(map[string]bool, len(s.Probes))
	for _, p := range s.Probes {
		form, _ := json.Marshal(p) // plain values, which cannot fail
		if seen[string(form)] {
			d.reject(n.get("probes"), at(loc, "probes"), "Probes must be unique")
			return
		}
		seen[string(form)] = true
	}
}
