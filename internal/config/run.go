package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// The types of run configurations.
const (
	TypeTask           = "task"
	TypeDevEnvironment = "dev-environment"
	TypeService        = "service"
	TypeFleet          = "fleet"
	TypeVolume         = "volume"
	TypeGateway        = "gateway"
)

// RunCommon is what all run configurations share.
type RunCommon struct {
	Type         string         `json:"type"`
	Name         *string        `json:"name"`
	Image        *string        `json:"image"`
	User         *UnixUser      `json:"user"`
	Privileged   bool           `json:"privileged"`
	Entrypoint   *string        `json:"entrypoint"`
	WorkingDir   *string        `json:"working_dir"`
	HomeDir      string         `json:"home_dir"`
	RegistryAuth *RegistryAuth  `json:"registry_auth"`
	Python       *PythonVersion `json:"python"`
	NVCC         *bool          `json:"nvcc"`
	SingleBranch *bool          `json:"single_branch"`
	Env          Env            `json:"env"`
	Shell        *Shell         `json:"shell"`
	Resources    Resources      `json:"resources"`
	Priority     *int           `json:"priority" cfg:"min=0,max=100"`
	Volumes      []Mount        `json:"volumes"`
	Docker       *bool          `json:"docker"`
	Repos        []Repo         `json:"repos"`
	Files        []FileMapping  `json:"files"`
	Dstack       bool           `json:"dstack"`
	Setup        []string       `json:"setup"`
	ProfileParams
}

func (c *RunCommon) setDefaults() {
	c.HomeDir = "/root"
	c.Env = Env{}
	c.Resources = DefaultResources()
	c.Volumes, c.Repos, c.Files, c.Setup = []Mount{}, []Repo{}, []FileMapping{}, []string{}
}

func (c *RunCommon) hasImage() bool { return c.Image != nil && *c.Image != "" }

// check applies the rules of configurations 5.1.
func (c *RunCommon) check(d *decoder, n *node, loc []any) {
	c.ProfileParams.check(d, n, loc)
	exclusive := func(a, b string) {
		d.reject(n.get(b), at(loc, b), "`%s` and `%s` are mutually exclusive fields", a, b)
	}
	image, docker := c.hasImage(), isSet(c.Docker)
	if !d.clean(loc, "image", "python", "docker", "nvcc") {
		image, docker = false, false
	}
	if image && c.Python != nil {
		exclusive("image", "python")
	}
	switch {
	case !docker:
	case image:
		exclusive("image", "docker")
	case c.Python != nil:
		exclusive("python", "docker")
	case isSet(c.NVCC):
		exclusive("nvcc", "docker")
	}
	if image {
		if _, err := ParseImage(*c.Image); err != nil {
			d.reject(n.get("image"), at(loc, "image"), "%v", err)
		}
	}
	if len(c.Repos) > 1 {
		d.reject(n.get("repos"), at(loc, "repos"), "A maximum of one repo is currently supported")
	}
	targets := map[string]bool{}
	for i, m := range c.Volumes {
		if targets[m.Path] && d.clean(loc, "volumes") {
			d.reject(n.get("volumes"), at(at(loc, "volumes"), i), "two volumes are mounted at %s", m.Path)
		}
		targets[m.Path] = true
	}
}

// Task runs commands to their end.
type Task struct {
	Nodes    *int          `json:"nodes" cfg:"min=1"`
	Groups   []NodeGroup   `json:"groups" cfg:"opt"`
	Ports    []PortMapping `json:"ports"`
	Commands []string      `json:"commands"`
	RunCommon
}

// NodeGroup is a set of equal nodes of a task.
type NodeGroup struct {
	Name      *string       `json:"name"`
	Nodes     int           `json:"nodes" cfg:"min=1"`
	Resources Resources     `json:"resources"`
	Commands  []string      `json:"commands"`
	Ports     []PortMapping `json:"ports"`
}

func (g *NodeGroup) setDefaults() {
	g.Nodes, g.Resources, g.Commands, g.Ports = 1, DefaultResources(), []string{}, []PortMapping{}
}

func (t *Task) setDefaults() {
	t.RunCommon.setDefaults()
	t.Ports, t.Commands = []PortMapping{}, []string{}
}

func (t *Task) check(d *decoder, n *node, loc []any) {
	t.RunCommon.check(d, n, loc)
	if !d.clean(loc) {
		return
	}
	if t.Groups == nil {
		if len(t.Commands) == 0 && !t.hasImage() {
			d.reject(n, loc, "Either `commands` or `image` must be set")
		}
		return
	}
	switch {
	case t.Nodes != nil:
		d.reject(n.get("nodes"), loc, "`nodes` and `groups` are mutually exclusive")
		return
	case len(t.Groups) == 0:
		d.reject(n.get("groups"), at(loc, "groups"), "`groups` cannot be an empty list")
		return
	}
	for _, f := range []struct {
		name string
		set  bool
	}{{"commands", len(t.Commands) > 0}, {"ports", len(t.Ports) > 0}, {"entrypoint", t.Entrypoint != nil}} {
		if f.set {
			name := f.name
			if name == "entrypoint" {
				name = "commands"
			}
			d.reject(n.get(f.name), at(loc, f.name), "Top-level `%s` is not allowed when `groups` is set. Specify `%s` in each node group instead.", f.name, name)
			return
		}
	}
	names := make([]*string, len(t.Groups))
	for i := range t.Groups {
		names[i] = t.Groups[i].Name
	}
	if !groupNames(d, n.get("groups"), at(loc, "groups"), names, "Node", "node") {
		return
	}
	for i := range t.Groups {
		g := &t.Groups[i]
		g.Name = names[i]
		if len(g.Commands) == 0 && !t.hasImage() {
			d.reject(n.get("groups").list[i], at(at(loc, "groups"), i), "Node group '%s': either `commands` must be set in the group, or `image` at the task level.", *g.Name)
			return
		}
	}
}

// groupNames fills absent names with the position and refuses bad and repeated ones.
func groupNames(d *decoder, n *node, loc []any, names []*string, kind, lower string) bool {
	seen := map[string]bool{}
	var again []string
	for i, name := range names {
		if name == nil {
			s := fmt.Sprint(i)
			names[i] = &s
		} else if !isGroupName(*name) {
			what := "Resource"
			if kind == "Node" {
				what = "Node group"
			}
			d.reject(n.list[i], at(at(loc, i), "name"), "%s name should match regex '%s'", what, groupNamePattern)
			return false
		}
		if seen[*names[i]] {
			again = append(again, "'"+*names[i]+"'")
		}
		seen[*names[i]] = true
	}
	if len(again) > 0 {
		d.reject(n, loc, "Duplicate %s group names found: [%s]. Each %s group must have a unique name.", lower, strings.Join(again, ", "), lower)
		return false
	}
	return true
}

// DevEnvironment is a container to work in.
type DevEnvironment struct {
	IDE                *string             `json:"ide" cfg:"enum=vscode|cursor|windsurf|zed"`
	Version            *string             `json:"version"`
	Init               []string            `json:"init"`
	InactivityDuration *InactivityDuration `json:"inactivity_duration"`
	Ports              []PortMapping       `json:"ports"`
	RunCommon
}

func (e *DevEnvironment) setDefaults() {
	e.RunCommon.setDefaults()
	e.Init, e.Ports = []string{}, []PortMapping{}
}

func (e *DevEnvironment) check(d *decoder, n *node, loc []any) {
	e.RunCommon.check(d, n, loc)
	if v := n.get("inactivity_duration"); v != nil && (v.isOff() || v.isTrue()) {
		e.InactivityDuration = nil
	}
	if !d.clean(loc) {
		return
	}
	switch {
	case e.Entrypoint != nil:
		d.reject(n.get("entrypoint"), at(loc, "entrypoint"), "entrypoint is not supported for dev-environment")
	case e.Version != nil && e.IDE == nil:
		d.reject(n.get("version"), at(loc, "version"), "`version` requires `ide` to be set")
	case e.Version != nil && *e.Version != "" && *e.IDE == "windsurf" && !isWindsurf(*e.Version):
		d.reject(n.get("version"), at(loc, "version"), "Invalid Windsurf version format: `%s`. Expected format: `version@commit` (e.g., `1.106.0@8951cd3ad688e789573d7f51750d67ae4a0bea7d`)", *e.Version)
	case e.InactivityDuration != nil && e.Dstack:
		d.reject(n.get("inactivity_duration"), loc, "`dstack` is not supported together with `inactivity_duration`")
	}
}

func isWindsurf(v string) bool {
	version, commit, ok := strings.Cut(v, "@")
	return ok && version != "" && commit != "" && strings.Trim(commit, "0123456789abcdef") == ""
}

// AnyRun is exactly one run configuration, told apart by its type.
type AnyRun struct {
	Task           *Task
	DevEnvironment *DevEnvironment
	Service        *Service
}

// Common is the shared part; nil when nothing is set.
func (a *AnyRun) Common() *RunCommon {
	switch {
	case a.Task != nil:
		return &a.Task.RunCommon
	case a.DevEnvironment != nil:
		return &a.DevEnvironment.RunCommon
	case a.Service != nil:
		return &a.Service.RunCommon
	}
	return nil
}

// Type is the word in the configuration.
func (a *AnyRun) Type() string {
	if c := a.Common(); c != nil {
		return c.Type
	}
	return ""
}

// MarshalJSON writes the configuration that is set.
func (a AnyRun) MarshalJSON() ([]byte, error) {
	switch {
	case a.Task != nil:
		return json.Marshal(a.Task)
	case a.DevEnvironment != nil:
		return json.Marshal(a.DevEnvironment)
	case a.Service != nil:
		return json.Marshal(a.Service)
	}
	return nil, errors.New("config: empty run configuration")
}

// UnmarshalJSON reads a stored configuration.
func (a *AnyRun) UnmarshalJSON(data []byte) error { return decodeStored(data, a) }

func (a *AnyRun) decodeNode(d *decoder, n *node, loc []any) {
	typ, ok := d.tag(n, loc, "type", TypeDevEnvironment, TypeTask, TypeService)
	if !ok {
		return
	}
	loc = at(loc, typ)
	switch typ {
	case TypeTask:
		a.Task = &Task{}
		decodeRun(d, n, loc, a.Task)
	case TypeDevEnvironment:
		a.DevEnvironment = &DevEnvironment{}
		decodeRun(d, n, loc, a.DevEnvironment)
	case TypeService:
		a.Service = &Service{}
		decodeService(d, n, loc, a.Service)
	}
}

type runType interface {
	defaulting
	check(d *decoder, n *node, loc []any)
}

func decodeRun(d *decoder, n *node, loc []any, r runType) {
	d.structure(n, loc, reflect.ValueOf(r).Elem())
	r.check(d, n, loc)
}

// tag reads the discriminator of a union.
func (d *decoder) tag(n *node, loc []any, key string, words ...string) (string, bool) {
	if n.kind != mapKind {
		d.add(n, loc, "model_attributes_type", "Input should be a valid dictionary or object to extract fields from")
		return "", false
	}
	v := n.get(key)
	if v == nil {
		d.add(n, loc, "union_tag_not_found", "Unable to extract tag using discriminator '%s'", key)
		return "", false
	}
	if v.kind == stringKind {
		for _, w := range words {
			if v.text == w {
				return w, true
			}
		}
	}
	d.add(v, loc, "union_tag_invalid", "Input tag '%s' found using '%s' does not match any of the expected tags: '%s'", v.scalarText(), key, strings.Join(words, "', '"))
	return "", false
}

// groupNamePattern is the pattern of names of node and replica groups.
const groupNamePattern = "^[a-z0-9][a-z0-9-]{0,39}$"

// isGroupName checks groupNamePattern.
func isGroupName(s string) bool {
	return len(s) >= 1 && len(s) <= 40 && s[0] != '-' && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// NameRule is the pattern of names of runs, fleets, volumes and gateways.
const NameRule = "^[a-z][a-z0-9-]{1,40}$"

// CheckName refuses names that do not match NameRule.
func CheckName(s string) error {
	if len(s) >= 2 && len(s) <= 41 && s[0] >= 'a' && s[0] <= 'z' && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == "" {
		return nil
	}
	return errors.New("Resource name should match regex '" + NameRule + "'")
}
