package config

import (
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode"
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

// Model makes a service answer as a chat model. Its format says which fields count.
type Model struct {
	Type, Name, Format, Prefix string
	ChatTemplate, EOSToken     *string
}

// The objects that a model is written as.
type (
	openAIModel struct {
		Type   string `json:"type" cfg:"enum=chat"`
		Name   string `json:"name" cfg:"req"`
		Format string `json:"format" cfg:"req,enum=openai"`
		Prefix string `json:"prefix"`
	}
	tgiModel struct {
		Type         string  `json:"type" cfg:"enum=chat"`
		Name         string  `json:"name" cfg:"req"`
		Format       string  `json:"format" cfg:"req,enum=tgi"`
		ChatTemplate *string `json:"chat_template"`
		EOSToken     *string `json:"eos_token"`
	}
)

// MarshalJSON writes the fields of the model's format.
func (m Model) MarshalJSON() ([]byte, error) {
	if m.Format == "tgi" {
		return json.Marshal(tgiModel{m.Type, m.Name, m.Format, m.ChatTemplate, m.EOSToken})
	}
	return json.Marshal(openAIModel{m.Type, m.Name, m.Format, m.Prefix})
}

func (m *Model) decodeNode(d *decoder, n *node, loc []any) {
	if n.kind != mapKind {
		if s, ok := d.exactText(n, loc); ok {
			*m = Model{Type: "chat", Name: s, Format: "openai", Prefix: "/v1"}
		}
		return
	}
	format, ok := d.tag(n, loc, "format", "tgi", "openai")
	if !ok {
		return
	}
	loc = at(loc, format)
	if format == "tgi" {
		p := tgiModel{Type: "chat"}
		d.structure(n, loc, reflect.ValueOf(&p).Elem())
		*m = Model{Type: p.Type, Name: p.Name, Format: format, ChatTemplate: p.ChatTemplate, EOSToken: p.EOSToken}
		return
	}
	p := openAIModel{Type: "chat", Prefix: "/v1"}
	d.structure(n, loc, reflect.ValueOf(&p).Elem())
	*m = Model{Type: p.Type, Name: p.Name, Format: format, Prefix: p.Prefix}
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

// RateLimit bounds the requests of one client below a path.
type RateLimit struct {
	Prefix string  `json:"prefix" cfg:"maxlen=4094"`
	Key    RateKey `json:"key"`
	RPS    float64 `json:"rps" cfg:"req,min=0.016666666666666666,max=153722867280912930"`
	Burst  int64   `json:"burst" cfg:"min=0"`
}

func (r *RateLimit) setDefaults() { r.Prefix, r.Key = "/", RateKey{Type: "ip_address"} }

var ratePatterns = sync.OnceValue(func() [2]*regexp.Regexp {
	return [2]*regexp.Regexp{regexp.MustCompile(`^/[^\s\\{}]*$`), regexp.MustCompile(`^[a-zA-Z0-9-_]+$`)}
})

func (r *RateLimit) validate(d *decoder, loc []any) {
	if d.clean(loc, "prefix") && !ratePatterns()[0].MatchString(r.Prefix) {
		d.add(nil, at(loc, "prefix"), "string_pattern_mismatch", `String should match pattern '^/[^\s\\{}]*$'`)
	}
}

// RateKey says by what clients are told apart.
type RateKey struct {
	Type   string
	Header string
}

// The objects that a key is written as.
type (
	addressKey struct {
		Type string `json:"type" cfg:"req,enum=ip_address"`
	}
	headerKey struct {
		Type   string `json:"type" cfg:"req,enum=header"`
		Header string `json:"header" cfg:"req,maxlen=500"`
	}
)

// MarshalJSON writes the fields of the key's type.
func (k RateKey) MarshalJSON() ([]byte, error) {
	if k.Type == "header" {
		return json.Marshal(map[string]string{"type": k.Type, "header": k.Header})
	}
	return json.Marshal(map[string]string{"type": k.Type})
}

func (k *RateKey) decodeNode(d *decoder, n *node, loc []any) {
	typ, ok := d.tag(n, loc, "type", "ip_address", "header")
	if !ok {
		return
	}
	k.Type, k.Header = typ, ""
	if typ == "ip_address" {
		var p addressKey
		d.structure(n, at(loc, typ), reflect.ValueOf(&p).Elem())
		return
	}
	var p headerKey
	before := len(d.problems)
	d.structure(n, at(loc, typ), reflect.ValueOf(&p).Elem())
	if len(d.problems) == before && !ratePatterns()[1].MatchString(p.Header) {
		d.add(n.get("header"), at(at(loc, typ), "header"), "string_pattern_mismatch", "String should match pattern '^[a-zA-Z0-9-_]+$'")
	}
	k.Header = p.Header
}

// Probe checks a replica over HTTP.
type Probe struct {
	Type       string        `json:"type" cfg:"req,enum=http"`
	URL        *string       `json:"url"`
	Method     *string       `json:"method" cfg:"enum=get|post|put|delete|patch|head"`
	Headers    []ProbeHeader `json:"headers" cfg:"maxlen=16"`
	Body       *string       `json:"body" cfg:"minlen=1,maxlen=2048"`
	Timeout    *Duration     `json:"timeout"`
	Interval   *Duration     `json:"interval"`
	ReadyAfter *int          `json:"ready_after" cfg:"min=1"`
	UntilReady *bool         `json:"until_ready"`
}

// ProbeHeader is one header of a probe's request.
type ProbeHeader struct {
	Name  string `json:"name" cfg:"req,minlen=1,maxlen=256"`
	Value string `json:"value" cfg:"req,minlen=1,maxlen=2048"`
}

func (p *Probe) setDefaults() { p.Headers = []ProbeHeader{} }

func (p *Probe) validate(d *decoder, loc []any) {
	if p.URL != nil && d.clean(loc, "url") {
		switch {
		case !strings.HasPrefix(*p.URL, "/"):
			d.reject(nil, at(loc, "url"), "Must start with `/`")
		case len(*p.URL) > 2048:
			d.reject(nil, at(loc, "url"), "Cannot be longer than 2048 characters")
		case strings.ContainsFunc(*p.URL, func(r rune) bool { return !unicode.IsPrint(r) }):
			d.reject(nil, at(loc, "url"), "Cannot contain non-printable characters")
		}
	}
	if d.clean(loc, "timeout") && p.Timeout != nil && *p.Timeout < 1 {
		d.reject(nil, at(loc, "timeout"), "Probe timeout cannot be shorter than 1s")
	}
	if d.clean(loc, "interval") && p.Interval != nil && *p.Interval < 1 {
		d.reject(nil, at(loc, "interval"), "Probe interval cannot be shorter than 1s")
	}
	if d.clean(loc, "body", "method") && p.Body != nil && p.Method != nil && (*p.Method == "get" || *p.Method == "head") {
		d.reject(nil, loc, "Cannot set request body for the `%s` method", *p.Method)
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

func (n *node) clone() *node {
	c := *n
	c.keys = slices.Clone(n.keys)
	c.values = make(map[string]*node, len(n.values))
	for k, v := range n.values {
		c.values[k] = v
	}
	return &c
}

func (n *node) drop(key string) {
	delete(n.values, key)
	n.keys = slices.DeleteFunc(n.keys, func(k string) bool { return k == key })
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
