package config

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
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

// SSHParams are the hosts of an SSH fleet and what they have in common.
type SSHParams struct {
	User         *string   `json:"user"`
	Port         *int      `json:"port"`
	IdentityFile *string   `json:"identity_file"`
	SSHKey       *SSHKey   `json:"ssh_key"`
	ProxyJump    *SSHProxy `json:"proxy_jump"`
	Hosts        []SSHHost `json:"hosts" cfg:"req"`
	Network      *string   `json:"network"`
}

func (p *SSHParams) validate(d *decoder, loc []any) {
	if p.Network == nil || !d.clean(loc, "network") {
		return
	}
	prefix, err := netip.ParsePrefix(withLength(*p.Network))
	if err != nil {
		if addr, err2 := netip.ParseAddr(*p.Network); err2 == nil {
			prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
	}
	switch {
	case err != nil:
		d.reject(nil, at(loc, "network"), "Failed to parse network: %s", *p.Network)
	case !prefix.Addr().IsPrivate() && !prefix.Addr().IsLoopback() && !prefix.Addr().IsLinkLocalUnicast():
		d.reject(nil, at(loc, "network"), "Public network is specified when private network is required")
	}
}

// withLength writes a netmask as the length of the prefix.
func withLength(network string) string {
	addr, mask, _ := strings.Cut(network, "/")
	m, err := netip.ParseAddr(mask)
	if err != nil || !m.Is4() {
		return network
	}
	b := m.As4()
	ones, bits := net.IPv4Mask(b[0], b[1], b[2], b[3]).Size()
	if bits == 0 {
		return network
	}
	return fmt.Sprintf("%s/%d", addr, ones)
}

// SSHHost is one host; absent values are taken from the fleet's. A lone string is the name.
type SSHHost struct {
	Hostname     string    `json:"hostname" cfg:"req"`
	Port         *int      `json:"port"`
	User         *string   `json:"user"`
	IdentityFile *string   `json:"identity_file"`
	ProxyJump    *SSHProxy `json:"proxy_jump"`
	InternalIP   *string   `json:"internal_ip"`
	SSHKey       *SSHKey   `json:"ssh_key"`
	Blocks       *Blocks   `json:"blocks"`

	// Plain says that the host was given as a string, and is written as one.
	Plain bool `json:"-"`
}

// MarshalJSON writes the form that was given.
func (h SSHHost) MarshalJSON() ([]byte, error) {
	if h.Plain && h.Port == nil && h.User == nil && h.SSHKey == nil && h.ProxyJump == nil && h.Blocks == nil {
		return json.Marshal(h.Hostname)
	}
	type plain SSHHost
	return json.Marshal(plain(h))
}

// UnmarshalJSON reads every form.
func (h *SSHHost) UnmarshalJSON(data []byte) error { return decodeStored(data, h) }

func (h *SSHHost) decodeNode(d *decoder, n *node, loc []any) {
	if n.kind != mapKind {
		if s, ok := d.text(n, loc); ok {
			*h = SSHHost{Hostname: s, Plain: true}
		}
		return
	}
	type plain SSHHost
	before := len(d.problems)
	d.structure(n, loc, reflect.ValueOf((*plain)(h)).Elem())
	if len(d.problems) > before || h.InternalIP == nil {
		return
	}
	addr, err := netip.ParseAddr(*h.InternalIP)
	switch {
	case err != nil:
		d.reject(n.get("internal_ip"), at(loc, "internal_ip"), "Invalid IP address")
	case !addr.IsPrivate() && !addr.IsLoopback():
		d.reject(n.get("internal_ip"), at(loc, "internal_ip"), "IP address is not private")
	}
}

// SSHProxy is a jump host.
type SSHProxy struct {
	Hostname     string  `json:"hostname" cfg:"req"`
	Port         *int    `json:"port"`
	User         string  `json:"user" cfg:"req"`
	IdentityFile string  `json:"identity_file" cfg:"req"`
	SSHKey       *SSHKey `json:"ssh_key"`
}

// SSHKey is a key pair; the private part never leaves the server.
type SSHKey struct {
	Public  string  `json:"public" cfg:"req"`
	Private *string `json:"private"`
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

func (p *SSHProxy) withoutKey() *SSHProxy {
	if p == nil {
		return nil
	}
	c := *p
	c.SSHKey = nil
	return &c
}

// Volume is a network disk; which fields count depends on the backend.
type Volume struct {
	Type                string        `json:"type"`
	Backend             string        `json:"backend"`
	Name                *string       `json:"name"`
	Size                *Memory       `json:"size"`
	AutoCleanupDuration *IdleDuration `json:"auto_cleanup_duration"`
	Tags                Tags          `json:"tags"`
	VolumeID            *string       `json:"volume_id"`
	Region              string        `json:"region"`
	AvailabilityZone    *string       `json:"availability_zone"`
	ClaimName           *string       `json:"claim_name"`
	StorageClassName    *string       `json:"storage_class_name"`
	AccessModes         []string      `json:"access_modes"`
	ReadOnly            bool          `json:"read_only"`
}

type volumeBase struct {
	Type                string        `json:"type"`
	Backend             string        `json:"backend" cfg:"req"`
	Name                *string       `json:"name"`
	Size                *Memory       `json:"size"`
	AutoCleanupDuration *IdleDuration `json:"auto_cleanup_duration"`
	Tags                Tags          `json:"tags" cfg:"opt"`
}

type volumeZoned struct {
	volumeBase
	VolumeID         *string `json:"volume_id"`
	Region           string  `json:"region" cfg:"req"`
	AvailabilityZone *string `json:"availability_zone"`
}

type volumeRunpod struct {
	volumeBase
	VolumeID *string `json:"volume_id"`
	Region   string  `json:"region" cfg:"req"`
}

// volumeUnsized is of backends whose volumes have neither a size nor a place.
type volumeUnsized struct {
	Type                string        `json:"type"`
	Backend             string        `json:"backend" cfg:"req"`
	Name                *string       `json:"name"`
	AutoCleanupDuration *IdleDuration `json:"auto_cleanup_duration"`
	Tags                Tags          `json:"tags" cfg:"opt"`
	VolumeID            *string       `json:"volume_id"`
}

type volumeKubernetes struct {
	volumeBase
	Region           string   `json:"region"`
	ClaimName        *string  `json:"claim_name"`
	StorageClassName *string  `json:"storage_class_name"`
	AccessModes      []string `json:"access_modes"`
	ReadOnly         bool     `json:"read_only"`
}

func (v Volume) base() volumeBase {
	return volumeBase{TypeVolume, v.Backend, v.Name, v.Size, v.AutoCleanupDuration, v.Tags}
}

// MarshalJSON writes the fields of the volume's backend.
func (v Volume) MarshalJSON() ([]byte, error) {
	switch v.Backend {
	case "kubernetes":
		return json.Marshal(volumeKubernetes{v.base(), v.Region, v.ClaimName, v.StorageClassName, v.AccessModes, v.ReadOnly})
	case "daytona", "lium":
		return json.Marshal(volumeUnsized{TypeVolume, v.Backend, v.Name, v.AutoCleanupDuration, v.Tags, v.VolumeID})
	case "runpod":
		return json.Marshal(volumeRunpod{v.base(), v.VolumeID, v.Region})
	}
	return json.Marshal(volumeZoned{v.base(), v.VolumeID, v.Region, v.AvailabilityZone})
}

// UnmarshalJSON reads a stored volume.
func (v *Volume) UnmarshalJSON(data []byte) error { return decodeStored(data, v) }

func (v *Volume) decodeNode(d *decoder, n *node, loc []any) {
	if n.get("backend") == nil && n.kind == mapKind {
		d.add(n, at(loc, "backend"), "missing", "Field required")
		return
	}
	backend, ok := d.tag(n, loc, "backend", "aws", "gcp", "runpod", "kubernetes", "daytona", "lium")
	if !ok {
		return
	}
	loc = at(loc, backend)
	before := len(d.problems)
	switch backend {
	case "kubernetes":
		p := volumeKubernetes{AccessModes: []string{"ReadWriteOnce"}}
		d.structure(n, loc, reflect.ValueOf(&p).Elem())
		*v = fromBase(p.volumeBase)
		v.Region, v.ClaimName, v.StorageClassName, v.AccessModes, v.ReadOnly = p.Region, p.ClaimName, p.StorageClassName, p.AccessModes, p.ReadOnly
	case "daytona", "lium":
		var p volumeUnsized
		d.structure(n, loc, reflect.ValueOf(&p).Elem())
		*v = Volume{Name: p.Name, AutoCleanupDuration: p.AutoCleanupDuration, Tags: p.Tags, VolumeID: p.VolumeID}
	default: // Runpod accepts a zone and drops it
		var p volumeZoned
		d.structure(n, loc, reflect.ValueOf(&p).Elem())
		*v = fromBase(p.volumeBase)
		v.VolumeID, v.Region, v.AvailabilityZone = p.VolumeID, p.Region, p.AvailabilityZone
		if backend == "runpod" {
			v.AvailabilityZone = nil
		}
	}
	if len(d.problems) > before {
		return
	}
	v.Type, v.Backend = TypeVolume, backend
	if off := n.get("auto_cleanup_duration"); off != nil && off.isTrue() {
		v.AutoCleanupDuration = nil
	}
}

func fromBase(b volumeBase) Volume {
	return Volume{Type: b.Type, Name: b.Name, Size: b.Size, AutoCleanupDuration: b.AutoCleanupDuration, Tags: b.Tags}
}

// Gateway is a public entry for services.
type Gateway struct {
	Type         string        `json:"type"`
	Name         *string       `json:"name"`
	Default      *bool         `json:"default"`
	Backend      string        `json:"backend" cfg:"req,enum=amddevcloud|aws|azure|cloudrift|crusoe|cudo|datacrunch|daytona|digitalocean|dstack|gcp|hotaisle|jarvislabs|kubernetes|lambda|lium|remote|nebius|oci|runpod|seeweb|tensordock|vastai|verda|vultr|slurm"`
	Region       string        `json:"region" cfg:"req"`
	InstanceType *string       `json:"instance_type" cfg:"minlen=1"`
	Domain       *string       `json:"domain"`
	PublicIP     bool          `json:"public_ip"`
	LoadBalancer *LoadBalancer `json:"load_balancer"`
	Certificate  *Certificate  `json:"certificate"`
	Replicas     *int          `json:"replicas" cfg:"min=1"`
	Tags         Tags          `json:"tags" cfg:"opt"`
}

func (g *Gateway) setDefaults() {
	g.Type, g.PublicIP, g.Certificate = TypeGateway, true, &Certificate{Type: "lets-encrypt"}
}

// UnmarshalJSON reads a stored gateway.
func (g *Gateway) UnmarshalJSON(data []byte) error { return decodeStored(data, g) }

func (g *Gateway) decodeNode(d *decoder, n *node, loc []any) {
	type plain Gateway
	g.setDefaults()
	if r := n.get("router"); r != nil && r.kind == nullKind { // sent by 0.20.27 to 0.20.29
		n = n.clone()
		n.drop("router")
	}
	d.structure(n, loc, reflect.ValueOf((*plain)(g)).Elem())
}

// LoadBalancer in front of the gateway's replicas.
type LoadBalancer struct {
	Type string `json:"type" cfg:"req,enum=alb"`
}

// Certificate says where a gateway's certificates come from.
type Certificate struct{ Type, ARN, Name string }

// The objects that a certificate is written as.
type (
	letsEncrypt struct {
		Type string `json:"type" cfg:"req,enum=lets-encrypt"`
	}
	acmCertificate struct {
		Type string `json:"type" cfg:"req,enum=acm"`
		ARN  string `json:"arn" cfg:"req"`
	}
	gcpCertificate struct {
		Type string `json:"type" cfg:"req,enum=gcp-cm"`
		Name string `json:"name" cfg:"req"`
	}
)

// MarshalJSON writes the fields of the certificate's type.
func (c Certificate) MarshalJSON() ([]byte, error) {
	m := map[string]string{"type": c.Type}
	switch c.Type {
	case "acm":
		m["arn"] = c.ARN
	case "gcp-cm":
		m["name"] = c.Name
	}
	return json.Marshal(m)
}

func (c *Certificate) decodeNode(d *decoder, n *node, loc []any) {
	typ, ok := d.tag(n, loc, "type", "lets-encrypt", "acm", "gcp-cm")
	if !ok {
		return
	}
	*c = Certificate{Type: typ}
	loc = at(loc, typ)
	switch typ {
	case "acm":
		var p acmCertificate
		d.structure(n, loc, reflect.ValueOf(&p).Elem())
		c.ARN = p.ARN
	case "gcp-cm":
		var p gcpCertificate
		d.structure(n, loc, reflect.ValueOf(&p).Elem())
		c.Name = p.Name
	default:
		var p letsEncrypt
		d.structure(n, loc, reflect.ValueOf(&p).Elem())
	}
}

// Any is exactly one configuration of any type that a file may hold.
type Any struct {
	Run     *AnyRun
	Fleet   *Fleet
	Volume  *Volume
	Gateway *Gateway

	// Warnings are what the file may not mean as it is written.
	Warnings []Problem
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
	n, errs := parseYAML(file, data)
	if errs != nil {
		return Any{}, errs
	}
	d := &decoder{file: file}
	var a Any
	a.decodeNode(d, n, nil)
	if err := d.finish(n); err != nil {
		return Any{}, err
	}
	a.Warnings = warnings(file, n)
	return a, nil
}

// Profiles is the content of a profiles file.
type Profiles struct {
	Profiles []Profile `json:"profiles" cfg:"req"`
}

// ParseProfiles reads profiles.yml.
func ParseProfiles(file string, data []byte) (Profiles, error) {
	n, errs := parseYAML(file, data)
	if errs != nil {
		return Profiles{}, errs
	}
	d := &decoder{file: file}
	var p Profiles
	d.structure(n, nil, reflect.ValueOf(&p).Elem())
	if err := d.finish(n); err != nil {
		return Profiles{}, err
	}
	return p, nil
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
			var next *node
			switch v := part.(type) {
			case int:
				if n.kind == listKind && v < len(n.list) {
					next = n.list[v]
				}
			case string:
				next = n.get(v)
			}
			if next != nil {
				n = next
			}
		}
		p.Line, p.Col = n.line, n.col
	}
}

// DecodeYAML reads a document into v with the rules of configurations: unknown keys are
// refused, every problem is reported at once with its place.
func DecodeYAML(file string, data []byte, v any) error {
	n, errs := parseYAML(file, data)
	if errs != nil {
		return errs
	}
	d := &decoder{file: file}
	d.value(n, nil, reflect.ValueOf(v).Elem(), "")
	return d.finish(n)
}
