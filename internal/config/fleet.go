package config

import (
	"encoding/json"
	"reflect"
	"strings"
)

// Fleet is a group of instances: hosts reached by SSH, or machines of backends.
type Fleet struct {
	Type              string           `json:"type"`
	Name              *string          `json:"name"`
	Placement         *string          `json:"placement" cfg:"enum=any|cluster"`
	Blocks            Blocks           `json:"blocks"`
	Nodes             *FleetNodes      `json:"nodes"`
	Reservation       *string          `json:"reservation"`
	Resources         *Resources       `json:"resources"`
	Backends          []string         `json:"backends" cfg:"opt,enum=amddevcloud|aws|azure|cloudrift|crusoe|cudo|datacrunch|daytona|digitalocean|dstack|gcp|hotaisle|jarvislabs|kubernetes|lambda|lium|remote|nebius|oci|runpod|seeweb|tensordock|vastai|verda|vultr|slurm|local"`
	Regions           []string         `json:"regions" cfg:"opt"`
	AvailabilityZones []string         `json:"availability_zones" cfg:"opt"`
	InstanceTypes     []string         `json:"instance_types" cfg:"opt"`
	SpotPolicy        *string          `json:"spot_policy" cfg:"enum=spot|on-demand|auto"`
	Retry             *RetryOption     `json:"retry"`
	MaxPrice          *float64         `json:"max_price" cfg:"gt=0"`
	IdleDuration      *IdleDuration    `json:"idle_duration"`
	Tags              Tags             `json:"tags" cfg:"opt"`
	BackendOptions    []BackendOptions `json:"backend_options" cfg:"opt"`
	SSHConfig         *SSHParams       `json:"ssh_config"`
	Env               Env              `json:"env"`
}

func (f *Fleet) setDefaults() { f.Type, f.Blocks, f.Env = TypeFleet, Blocks{N: 1}, Env{} }

// Params are the fleet's options in the form that runs have them.
func (f *Fleet) Params() ProfileParams {
	return ProfileParams{
		Backends: f.Backends, Regions: f.Regions, AvailabilityZones: f.AvailabilityZones, InstanceTypes: f.InstanceTypes,
		Reservation: f.Reservation, SpotPolicy: f.SpotPolicy, Retry: f.Retry, MaxPrice: f.MaxPrice,
		IdleDuration: f.IdleDuration, Tags: f.Tags, BackendOptions: f.BackendOptions,
	}
}

// UnmarshalJSON reads a stored fleet.
func (f *Fleet) UnmarshalJSON(data []byte) error { return decodeStored(data, f) }

func (f *Fleet) decodeNode(d *decoder, n *node, loc []any) {
	type plain Fleet
	p := (*plain)(f)
	f.setDefaults()
	before := len(d.problems)
	d.structure(n, loc, reflect.ValueOf(p).Elem())
	if len(d.problems) > before {
		return
	}
	if v := n.get("idle_duration"); v != nil && v.isTrue() {
		f.IdleDuration = nil
	}
	if v := n.get("type"); v != nil && v.text != TypeFleet {
		d.add(v, at(loc, "type"), "literal_error", "Input should be 'fleet'")
	}
}

// Blocks is in how many parts an instance can be shared, or "auto".
type Blocks struct {
	N    int
	Auto bool
}

// MarshalJSON writes a number or "auto".
func (b Blocks) MarshalJSON() ([]byte, error) {
	if b.Auto {
		return []byte(`"auto"`), nil
	}
	return json.Marshal(b.N)
}

func (b *Blocks) decodeNode(d *decoder, n *node, loc []any) {
	if n.kind == stringKind && n.text == "auto" {
		*b = Blocks{Auto: true}
		return
	}
	if n.kind == boolKind {
		d.add(n, loc, "int_type", "Input should be a valid integer or 'auto'")
		return
	}
	if v, ok := d.integer(n, loc); ok && d.bounds(n, loc, float64(v), "min=1") {
		*b = Blocks{N: int(v)}
	}
}

// FleetNodes is how many instances a backend fleet has: never below Min, Target at
// creation, never above Max (nil: no limit).
type FleetNodes struct {
	Min, Target int
	Max         *int
}

// MarshalJSON leaves out a target that equals min, as published clients expect.
func (f FleetNodes) MarshalJSON() ([]byte, error) {
	if f.Target == f.Min {
		return json.Marshal(struct {
			Min int  `json:"min"`
			Max *int `json:"max"`
		}{f.Min, f.Max})
	}
	return json.Marshal(struct {
		Min    int  `json:"min"`
		Target int  `json:"target"`
		Max    *int `json:"max"`
	}{f.Min, f.Target, f.Max})
}

// UnmarshalJSON reads every form.
func (f *FleetNodes) UnmarshalJSON(data []byte) error { return decodeStored(data, f) }

func (f *FleetNodes) decodeNode(d *decoder, n *node, loc []any) {
	switch n.kind {
	case intKind:
		v, ok := d.integer(n, loc)
		if !ok {
			return
		}
		most := int(v)
		*f = FleetNodes{Min: most, Target: most, Max: &most}
	case stringKind:
		if !f.parse(d, n, loc) {
			return
		}
	case mapKind:
		var p struct {
			Min    *int `json:"min"`
			Target *int `json:"target"`
			Max    *int `json:"max"`
		}
		before := len(d.problems)
		d.structure(n, loc, reflect.ValueOf(&p).Elem())
		if len(d.problems) > before {
			return
		}
		if p.Min != nil {
			f.Min = *p.Min
		}
		f.Target, f.Max = f.Min, p.Max
		if p.Target != nil {
			f.Target = *p.Target
		}
	default:
		d.add(n, loc, "model_type", "Input should be a number, a range such as 0..4, or an object")
		return
	}
	switch {
	case f.Min < 0:
		d.reject(n, loc, "min cannot be negative")
	case f.Target < f.Min:
		d.reject(n, loc, "target must not be be less than min")
	case f.Max != nil && *f.Max < f.Min:
		d.reject(n, loc, "max must not be less than min")
	case f.Max != nil && *f.Max < f.Target:
		d.reject(n, loc, "max must not be less than target")
	}
}

func (f *FleetNodes) parse(d *decoder, n *node, loc []any) bool {
	lo, hi, ranged := strings.Cut(strings.ReplaceAll(n.text, " ", ""), "..")
	number := func(s string) (int, bool) {
		v, ok := looseInt(s)
		if !ok {
			d.add(n, loc, "int_parsing", "Input should be a number or a range such as 0..4")
		}
		return int(v), ok
	}
	var ok bool
	if lo != "" || !ranged {
		if f.Min, ok = number(lo); !ok {
			return false
		}
	}
	f.Target = f.Min
	if !ranged {
		most := f.Min
		f.Max = &most
		return true
	}
	if hi != "" {
		most, good := number(hi)
		if !good {
			return false
		}
		f.Max = &most
	}
	return true
}

// WithoutKeys is a copy of the fleet that carries no private key, fit for responses.
func (f Fleet) WithoutKeys() Fleet {
	if f.SSHConfig == nil {
		return f
	}
	c := *f.SSHConfig
	c.SSHKey = nil
	c.ProxyJump = c.ProxyJump.withoutKey()
	c.Hosts = append([]SSHHost{}, c.Hosts...)
	for i := range c.Hosts {
		c.Hosts[i].SSHKey = nil
		c.Hosts[i].ProxyJump = c.Hosts[i].ProxyJump.withoutKey()
	}
	f.SSHConfig = &c
	return f
}
