package config

import (
	"encoding/json"
	"reflect"
	"regexp"
	"strings"
	"sync"
)

// ProfileParams are the options of a profile, which every run configuration takes too.
// Nil means: not set here.
type ProfileParams struct {
	Backends          []string           `json:"backends" cfg:"opt,enum=amddevcloud|aws|azure|cloudrift|crusoe|cudo|datacrunch|daytona|digitalocean|dstack|gcp|hotaisle|jarvislabs|kubernetes|lambda|lium|remote|nebius|oci|runpod|seeweb|tensordock|vastai|verda|vultr|slurm|local"`
	Regions           []string           `json:"regions" cfg:"opt"`
	AvailabilityZones []string           `json:"availability_zones" cfg:"opt"`
	InstanceTypes     []string           `json:"instance_types" cfg:"opt"`
	Reservation       *string            `json:"reservation"`
	SpotPolicy        *string            `json:"spot_policy" cfg:"enum=spot|on-demand|auto"`
	Retry             *RetryOption       `json:"retry"`
	MaxDuration       *OffDuration       `json:"max_duration"`
	StopDuration      *OffDuration       `json:"stop_duration"`
	MaxPrice          *float64           `json:"max_price" cfg:"gt=0"`
	CreationPolicy    *string            `json:"creation_policy" cfg:"enum=reuse|reuse-or-create"`
	IdleDuration      *IdleDuration      `json:"idle_duration"`
	UtilizationPolicy *UtilizationPolicy `json:"utilization_policy"`
	StartupOrder      *string            `json:"startup_order" cfg:"enum=any|master-first|workers-first"`
	StopCriteria      *string            `json:"stop_criteria" cfg:"enum=all-done|master-done"`
	Schedule          *Schedule          `json:"schedule"`
	Fleets            []EntityRef        `json:"fleets" cfg:"opt"`
	Instances         []InstanceSelector `json:"instances" cfg:"opt,minlen=1"`
	Tags              Tags               `json:"tags" cfg:"opt"`
	BackendOptions    []BackendOptions   `json:"backend_options" cfg:"opt"`
}

// Profile is a named set of options.
type Profile struct {
	ProfileParams
	Name    string `json:"name"`
	Default bool   `json:"default"`
}

// UnmarshalJSON reads a stored profile.
func (p *Profile) UnmarshalJSON(data []byte) error { return decodeStored(data, p) }

func (p *Profile) decodeNode(d *decoder, n *node, loc []any) {
	type plain Profile
	d.structure(n, loc, reflect.ValueOf((*plain)(p)).Elem())
	p.check(d, n, loc)
}

func (p *ProfileParams) check(d *decoder, n *node, loc []any) {
	for _, k := range []string{"max_duration", "stop_duration", "idle_duration"} {
		if v := n.get(k); v != nil && v.isTrue() {
			switch k {
			case "max_duration":
				p.MaxDuration = nil
			case "stop_duration":
				p.StopDuration = nil
			default:
				p.IdleDuration = nil
			}
		}
	}
	seen := map[string]bool{}
	for i, o := range p.BackendOptions {
		if seen[o.Type] && d.clean(loc, "backend_options") {
			d.reject(n.get("backend_options"), at(at(loc, "backend_options"), i), "backend_options contains duplicate entry for backend '%s'", o.Type)
		}
		seen[o.Type] = true
	}
}

// RetryOption is true, false or an object.
type RetryOption struct {
	Object   bool // OnEvents and Duration count
	Enabled  bool // when not an object
	OnEvents []string
	Duration *Duration
	// Scope is an addition of ours: "node" replaces a lost node of a task alone, "replica"
	// or nil starts all its nodes anew.
	Scope *string
}

type retryObject struct {
	OnEvents []string  `json:"on_events" cfg:"opt,enum=no-capacity|interruption|error"`
	Duration *Duration `json:"duration"`
	Scope    *string   `json:"scope,omitempty" cfg:"enum=node|replica"`
}

// MarshalJSON writes the form that was given.
func (r RetryOption) MarshalJSON() ([]byte, error) {
	if !r.Object {
		return json.Marshal(r.Enabled)
	}
	return json.Marshal(retryObject{r.OnEvents, r.Duration, r.Scope})
}

// UnmarshalJSON reads every form.
func (r *RetryOption) UnmarshalJSON(data []byte) error { return decodeStored(data, r) }

func (r *RetryOption) decodeNode(d *decoder, n *node, loc []any) {
	if n.kind == mapKind {
		var o retryObject
		d.structure(n, loc, reflect.ValueOf(&o).Elem())
		if o.OnEvents != nil && len(o.OnEvents) == 0 {
			d.reject(n.get("on_events"), at(loc, "on_events"), "`on_events` cannot be empty")
		}
		if o.Duration != nil && *o.Duration < 0 {
			d.reject(n.get("duration"), at(loc, "duration"), "retry.duration cannot be negative")
		}
		*r = RetryOption{Object: true, OnEvents: o.OnEvents, Duration: o.Duration, Scope: o.Scope}
		return
	}
	b, ok := d.boolean(n, loc)
	if ok {
		r.Enabled = b
	}
}

// UtilizationPolicy ends runs that leave their GPUs idle.
type UtilizationPolicy struct {
	MinGPUUtilization int      `json:"min_gpu_utilization" cfg:"req,min=0,max=100"`
	TimeWindow        Duration `json:"time_window" cfg:"req"`
}

func (u *UtilizationPolicy) validate(d *decoder, loc []any) {
	if d.clean(loc, "time_window") && u.TimeWindow < 300 {
		d.reject(nil, at(loc, "time_window"), "Minimum time_window is 5m")
	}
}

// Schedule is a list of cron expressions (UTC, 0 = Monday).
type Schedule struct {
	Cron []string `json:"cron" cfg:"req"`
}

func (s *Schedule) decodeNode(d *decoder, n *node, loc []any) {
	if n.kind != mapKind {
		d.add(n, loc, "model_type", "Input should be a valid dictionary or instance of Schedule")
		return
	}
	for _, k := range n.keys {
		if k != "cron" && !d.lenient {
			d.unknown(n, loc, k)
		}
	}
	cron := n.get("cron")
	if cron == nil {
		d.add(n, at(loc, "cron"), "missing", "Field required")
		return
	}
	list := []*node{cron}
	if cron.kind == listKind {
		list = cron.list
	}
	if len(list) == 0 {
		d.reject(cron, at(loc, "cron"), "At least one cron expression must be specified")
	}
	for i, item := range list {
		where := at(at(loc, "cron"), i)
		expr, ok := d.text(item, where)
		if !ok {
			continue
		}
		if _, err := ParseCron(expr); err != nil {
			d.reject(item, where, "%v", err)
			continue
		}
		s.Cron = append(s.Cron, expr)
	}
}

// EntityRef names something of this or another project.
type EntityRef struct {
	Project *string `json:"project"`
	Name    string  `json:"name" cfg:"req"`
}

func (e EntityRef) String() string {
	if e.Project != nil {
		return *e.Project + "/" + e.Name
	}
	return e.Name
}

// ParseEntityRef reads name or project/name.
func ParseEntityRef(s string) (EntityRef, bool) {
	project, name, ok := strings.Cut(s, "/")
	if !ok {
		return EntityRef{Name: s}, s != ""
	}
	if project == "" || name == "" || strings.Contains(name, "/") {
		return EntityRef{}, false
	}
	return EntityRef{Project: &project, Name: name}, true
}

// UnmarshalJSON reads every form.
func (e *EntityRef) UnmarshalJSON(data []byte) error { return decodeStored(data, e) }

func (e *EntityRef) decodeNode(d *decoder, n *node, loc []any) {
	if n.kind == mapKind {
		type plain EntityRef
		d.structure(n, loc, reflect.ValueOf((*plain)(e)).Elem())
		return
	}
	s, ok := d.text(n, loc)
	if !ok {
		return
	}
	ref, good := ParseEntityRef(s)
	if !good {
		d.reject(n, loc, "Invalid entity reference. Only `<name>` or `<project>/<name>` formats are allowed")
		return
	}
	*e = ref
}

// InstanceSelector picks existing instances: by name, by host name, or by fleet and number.
type InstanceSelector struct {
	Name     *string
	Hostname *string
	Fleet    *EntityRef
	Instance int
}

// selectorForm is the object that a selector is written as: one of its fields, or the last two.
type selectorForm struct {
	Name     *string    `json:"name" cfg:"minlen=1"`
	Hostname *string    `json:"hostname" cfg:"minlen=1"`
	Fleet    *EntityRef `json:"fleet"`
	Instance *int       `json:"instance" cfg:"min=0"`
}

// MarshalJSON writes the one form that is set.
func (s InstanceSelector) MarshalJSON() ([]byte, error) {
	switch {
	case s.Hostname != nil:
		return json.Marshal(map[string]any{"hostname": *s.Hostname})
	case s.Fleet != nil:
		return json.Marshal(struct {
			Fleet    EntityRef `json:"fleet"`
			Instance int       `json:"instance"`
		}{*s.Fleet, s.Instance})
	}
	name := ""
	if s.Name != nil {
		name = *s.Name
	}
	return json.Marshal(map[string]any{"name": name})
}

// UnmarshalJSON reads every form.
func (s *InstanceSelector) UnmarshalJSON(data []byte) error { return decodeStored(data, s) }

func (s *InstanceSelector) decodeNode(d *decoder, n *node, loc []any) {
	if n.kind != mapKind {
		if name, ok := d.exactText(n, loc); ok {
			if name == "" {
				d.add(n, loc, "string_too_short", "String should have at least 1 character")
			}
			s.Name = &name
		}
		return
	}
	var p selectorForm
	d.structure(n, loc, reflect.ValueOf(&p).Elem())
	if f := n.get("fleet"); f != nil && f.kind != mapKind && f.kind != nullKind {
		d.exactText(f, at(loc, "fleet"))
	}
	forms := 0
	for _, set := range []bool{p.Name != nil, p.Hostname != nil, p.Fleet != nil || p.Instance != nil} {
		if set {
			forms++
		}
	}
	if forms != 1 || (p.Fleet == nil) != (p.Instance == nil) {
		d.reject(n, loc, "An instance is selected by `name`, by `hostname`, or by `fleet` and `instance`")
		return
	}
	*s = InstanceSelector{Name: p.Name, Hostname: p.Hostname, Fleet: p.Fleet}
	if p.Instance != nil {
		s.Instance = *p.Instance
	}
}

// Tags are passed on to the cloud.
type Tags map[string]string

var tagRules = sync.OnceValue(func() [2]*regexp.Regexp {
	return [2]*regexp.Regexp{regexp.MustCompile(`^[_\-a-zA-Z0-9]{1,60}$`), regexp.MustCompile(`^[a-zA-Z0-9 .:/=_\-+@]{0,256}$`)}
})

func (t *Tags) decodeNode(d *decoder, n *node, loc []any) {
	if n.kind == nullKind {
		*t = nil
		return
	}
	if n.kind != mapKind {
		d.add(n, loc, "dict_type", "Input should be a valid dictionary")
		return
	}
	rules := tagRules()
	*t = Tags{}
	for _, k := range n.keys {
		if !d.stringKey(n, loc, k) {
			continue
		}
		v := n.values[k]
		switch {
		case !rules[0].MatchString(k):
			d.reject(v, loc, "Invalid tag key %s. The key must match regex '%s'", k, rules[0])
		case v.kind != stringKind:
			d.add(v, at(loc, k), "string_type", "Input should be a valid string")
		case !rules[1].MatchString(v.text):
			d.reject(v, at(loc, k), "Invalid tag value %s. The value must match regex '%s'", v.text, rules[1])
		default:
			(*t)[k] = v.text
		}
	}
}

// BackendOptions are settings of one backend; only Vast.ai has some.
type BackendOptions struct {
	Type           string   `json:"type" cfg:"enum=vastai"`
	OfferOrder     *string  `json:"offer_order" cfg:"enum=score|price"`
	MinReliability *float64 `json:"min_reliability" cfg:"min=0,max=1"`
	MinScore       *int     `json:"min_score" cfg:"min=0"`
}

func (b *BackendOptions) setDefaults() { b.Type = "vastai" }

// Merge returns the options that count for a configuration: its own where set, else the
// profile's (configurations 4.3).
func Merge(p *Profile, own ProfileParams) Profile {
	merged := Profile{Name: "default"}
	if p != nil {
		merged = *p
	}
	src, dst := reflect.ValueOf(own), reflect.ValueOf(&merged.ProfileParams).Elem()
	for i := range src.NumField() {
		if !src.Field(i).IsNil() {
			dst.Field(i).Set(src.Field(i))
		}
	}
	return merged
}
