package config

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// ReplicaGroup is a set of equal replicas of a service.
type ReplicaGroup struct {
	Name        *string        `json:"name"`
	Replicas    IntRange       `json:"replicas"`
	Scaling     *Scaling       `json:"scaling"`
	Resources   Resources      `json:"resources"`
	SpotPolicy  *string        `json:"spot_policy" cfg:"enum=spot|on-demand|auto"`
	Reservation *string        `json:"reservation"`
	Commands    []string       `json:"commands"`
	Image       *string        `json:"image"`
	Python      *PythonVersion `json:"python"`
	NVCC        *bool          `json:"nvcc"`
	Docker      *bool          `json:"docker"`
	Privileged  *bool          `json:"privileged"`
	Router      *Router        `json:"router"`
}

func (g *ReplicaGroup) setDefaults() {
	g.Resources, g.Commands = DefaultResources(), []string{}
}

// Router routes requests between the other groups. Its type "smg" is "sglang" on the wire.
type Router struct{ Type string }

type routerForm struct {
	Type string `json:"type" cfg:"enum=smg|dynamo|sglang"`
}

// MarshalJSON writes the wire's word.
func (r Router) MarshalJSON() ([]byte, error) {
	word := r.Type
	if word == "smg" {
		word = "sglang"
	}
	return json.Marshal(map[string]string{"type": word})
}

func (r *Router) decodeNode(d *decoder, n *node, loc []any) {
	p := routerForm{"smg"}
	d.structure(n, loc, reflect.ValueOf(&p).Elem())
	if r.Type = p.Type; r.Type == "sglang" {
		r.Type = "smg"
	}
}

// Scaling says when replicas are added and removed.
type Scaling struct {
	Metric         string    `json:"metric" cfg:"req,enum=rps"`
	Target         float64   `json:"target" cfg:"req,gt=0"`
	Window         *Duration `json:"window"`
	ScaleUpDelay   Duration  `json:"scale_up_delay"`
	ScaleDownDelay Duration  `json:"scale_down_delay"`
}

func (s *Scaling) setDefaults() { s.ScaleUpDelay, s.ScaleDownDelay = 300, 600 }

func (s *Scaling) validate(d *decoder, loc []any) {
	if d.clean(loc, "window") && s.Window != nil && *s.Window != 30 && *s.Window != 60 && *s.Window != 300 {
		d.reject(nil, at(loc, "window"), "Window must be one of: `30s`, `60s`, `300s`")
	}
	for _, delay := range []struct {
		key   string
		value Duration
	}{{"scale_up_delay", s.ScaleUpDelay}, {"scale_down_delay", s.ScaleDownDelay}} {
		if delay.value < 0 {
			d.reject(nil, at(loc, delay.key), "Scaling delays cannot be negative")
		}
	}
}

func fixReplicas(d *decoder, n *node, loc []any, r *IntRange) {
	if r.Max == nil {
		d.reject(n, loc, "The maximum number of replicas is required")
		return
	}
	if r.Min == nil {
		zero := 0
		r.Min = &zero
	}
}

func scalingFits(d *decoder, n *node, loc []any, r *IntRange, s *Scaling) {
	ranged := r != nil && *r.Min != *r.Max
	switch {
	case ranged && s == nil:
		d.reject(n.get("replicas"), at(loc, "replicas"), "When you set `replicas` to a range, ensure to specify `scaling`.")
	case !ranged && s != nil:
		d.reject(n.get("scaling"), at(loc, "scaling"), "To use `scaling`, `replicas` must be set to a range.")
	}
}

func (s *Service) checkGroups(d *decoder, n *node, loc []any) {
	groups := n.get("groups")
	loc = at(loc, "groups")
	if len(s.Groups) == 0 {
		d.reject(groups, loc, "`groups` cannot be an empty list")
		return
	}
	names := make([]*string, len(s.Groups))
	for i := range s.Groups {
		names[i] = s.Groups[i].Name
		g := &s.Groups[i]
		fixReplicas(d, groups.list[i], at(loc, i), &g.Replicas)
	}
	if !d.clean(loc) || !groupNames(d, groups, loc, names, "Replica", "replica") {
		return
	}
	for i := range s.Groups {
		s.Groups[i].Name = names[i]
		scalingFits(d, groups.list[i], at(loc, i), &s.Groups[i].Replicas, s.Groups[i].Scaling)
	}
	if !d.clean(loc) {
		return
	}
	for _, rule := range []func() string{s.topLevel, s.bothLevels, s.acrossLevels, s.inGroups, s.router} {
		if msg := rule(); msg != "" {
			d.reject(groups, loc, "%s", msg)
			return
		}
	}
}

func (s *Service) topLevel() string {
	for _, f := range []struct {
		name string
		set  bool
	}{{"scaling", s.Scaling != nil}, {"commands", len(s.Commands) > 0}, {"entrypoint", s.Entrypoint != nil}} {
		if f.set {
			return fmt.Sprintf("Top-level `%s` is not allowed when `groups` is set. Specify `%s` in each replica group instead.", f.name, f.name)
		}
	}
	return ""
}

func isSet(b *bool) bool { return b != nil && *b }

func (s *Service) bothLevels() string {
	for _, f := range []struct {
		name  string
		above bool
		group func(g ReplicaGroup) bool
	}{
		{"image", s.Image != nil, func(g ReplicaGroup) bool { return g.Image != nil }},
		{"docker", isSet(s.Docker), func(g ReplicaGroup) bool { return g.Docker != nil }},
		{"privileged", s.Privileged, func(g ReplicaGroup) bool { return g.Privileged != nil }},
		{"python", s.Python != nil, func(g ReplicaGroup) bool { return g.Python != nil }},
		{"nvcc", isSet(s.NVCC), func(g ReplicaGroup) bool { return g.NVCC != nil }},
		{"spot_policy", s.SpotPolicy != nil, func(g ReplicaGroup) bool { return g.SpotPolicy != nil }},
		{"reservation", s.Reservation != nil, func(g ReplicaGroup) bool { return g.Reservation != nil }},
	} {
		if in := s.groupsWith(f.group); f.above && in != "" {
			return fmt.Sprintf("`%s` is set at both the service level and in replica group(s) %s. Set `%s` in one place only — either at the service level (all groups inherit) or per group, but not both.", f.name, in, f.name)
		}
	}
	return ""
}

// groupsWith lists the names of groups for which f holds, "" for none.
func (s *Service) groupsWith(f func(ReplicaGroup) bool) string {
	var names []string
	for _, g := range s.Groups {
		if f(g) {
			names = append(names, "'"+*g.Name+"'")
		}
	}
	if names == nil {
		return ""
	}
	return "[" + strings.Join(names, ", ") + "]"
}

func (s *Service) acrossLevels() string {
	above := map[string]bool{"image": s.Image != nil, "docker": isSet(s.Docker), "python": s.Python != nil, "nvcc": isSet(s.NVCC)}
	below := map[string]func(ReplicaGroup) bool{
		"image":  func(g ReplicaGroup) bool { return g.Image != nil },
		"docker": func(g ReplicaGroup) bool { return g.Docker != nil },
		"python": func(g ReplicaGroup) bool { return g.Python != nil },
		"nvcc":   func(g ReplicaGroup) bool { return g.NVCC != nil },
	}
	for _, pair := range [][]string{
		{"image", "docker", "python", "nvcc"}, {"docker", "image", "python", "nvcc"},
		{"python", "image", "docker"}, {"nvcc", "image", "docker"},
	} {
		if !above[pair[0]] {
			continue
		}
		for _, other := range pair[1:] {
			if in := s.groupsWith(below[other]); in != "" {
				return fmt.Sprintf("Service-level `%s` conflicts with group-level `%s` in replica group(s) %s. These image-source fields are mutually exclusive.", pair[0], other, in)
			}
		}
	}
	return ""
}

func (s *Service) inGroups() string {
	for _, g := range s.Groups {
		switch {
		case g.Image != nil && g.Python != nil:
			return "`image` and `python` are mutually exclusive within a replica group"
		case g.Image != nil && isSet(g.Docker):
			return "`image` and `docker` are mutually exclusive within a replica group"
		case g.Python != nil && isSet(g.Docker):
			return "`python` and `docker` are mutually exclusive within a replica group"
		case isSet(g.NVCC) && isSet(g.Docker):
			return "`nvcc` and `docker` are mutually exclusive within a replica group"
		case isSet(g.Docker) && g.Privileged != nil && !*g.Privileged:
			return "`privileged: false` is incompatible with `docker: true` within a replica group (docker-in-docker requires privileged mode)"
		case len(g.Commands) == 0 && g.Image == nil && s.Image == nil:
			return fmt.Sprintf("Replica group '%s': either `commands` or `image` must be set in the group, or `image` at the service level.", *g.Name)
		}
	}
	return ""
}

func (s *Service) router() string {
	routers := 0
	for _, g := range s.Groups {
		if g.Router == nil {
			continue
		}
		if routers++; routers > 1 {
			return "At most one replica group may specify `router`."
		}
		if *g.Replicas.Min != 1 || *g.Replicas.Max != 1 {
			return "For now replica group with `router` must have `replicas: 1`."
		}
		if g.Router.Type == "dynamo" && s.Retry != nil && (s.Retry.Object || s.Retry.Enabled) {
			return "Retry cannot be configured for services with a Dynamo router replica group. The router's address must remain stable for the life of the run; allowing retry would leave workers bound to a router that no longer exists. Remove `retry` from the profile/configuration and re-apply."
		}
	}
	return ""
}
