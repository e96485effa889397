package config

import (
	"errors"
	"fmt"
	"strings"
)

// maxFleetNodes bounds how many instances one request makes.
const maxFleetNodes = 10_000

// Refused lists what rules of configurations 7 a fleet breaks, in their order: those that its
// grammar does not say. Files and places are not filled in. A host's key may still be a file of
// the caller's.
func (f *Fleet) Refused() []Problem {
	d, loc := &decoder{}, []any{TypeFleet}
	checkName(d, loc, f.Name)
	switch {
	case f.SSHConfig == nil && f.Nodes == nil:
		d.refuse(loc, errors.New("No ssh_config or nodes specified"))
	case f.SSHConfig != nil && f.Nodes != nil:
		d.refuse(at(loc, "nodes"), errors.New("ssh_config and nodes are mutually exclusive"))
	case f.SSHConfig == nil && len(f.Env) > 0:
		d.refuse(at(loc, "env"), errors.New("Backend fleet configuration does not support the following fields: ['env']"))
	}
	if f.Nodes != nil && f.Nodes.Target > maxFleetNodes { // which is not below the minimum
		d.refuse(at(loc, "nodes"), fmt.Errorf("nodes: a fleet cannot be made with more than %d instances", maxFleetNodes))
	}
	if f.SSHConfig != nil {
		f.checkSSH(d, loc)
	}
	return d.problems
}

func (f *Fleet) checkSSH(d *decoder, loc []any) {
	var other []string
	for _, field := range []struct {
		name string
		set  bool
	}{
		{"reservation", f.Reservation != nil}, {"resources", f.Resources != nil}, {"backends", f.Backends != nil}, {"regions", f.Regions != nil},
		{"availability_zones", f.AvailabilityZones != nil}, {"instance_types", f.InstanceTypes != nil}, {"spot_policy", f.SpotPolicy != nil},
		{"max_price", f.MaxPrice != nil}, {"idle_duration", f.IdleDuration != nil}, {"tags", f.Tags != nil}, {"backend_options", f.BackendOptions != nil},
	} {
		if field.set {
			other = append(other, field.name)
		}
	}
	if other != nil {
		d.refuse(at(loc, other[0]), fmt.Errorf("SSH fleet configuration does not support the following fields: ['%s']", strings.Join(other, "', '")))
	}
	p := f.SSHConfig
	for i, h := range p.Hosts {
		host := at(at(at(loc, "ssh_config"), "hosts"), i)
		if h.SSHKey == nil && p.SSHKey == nil && !named(h.IdentityFile) && !named(p.IdentityFile) {
			d.refuse(host, fmt.Errorf("No ssh key specified for host %s", h.Hostname))
		}
		if h.User == nil && p.User == nil {
			d.refuse(host, fmt.Errorf("No ssh user specified for host %s", h.Hostname))
		}
	}
}

func named(file *string) bool { return file != nil && *file != "" }

// RefusedAddresses wants internal addresses for all hosts or none. It is like [Fleet.Refused],
// but comes after the keys of the hosts, which only servers look at.
func (f *Fleet) RefusedAddresses() []Problem {
	p := f.SSHConfig
	if p == nil {
		return nil
	}
	d, loc, internal := &decoder{}, []any{TypeFleet, "ssh_config"}, 0
	for _, h := range p.Hosts {
		if h.InternalIP != nil {
			internal++
		}
	}
	switch {
	case internal > 0 && internal < len(p.Hosts):
		d.refuse(at(loc, "hosts"), errors.New("internal_ip must be specified for all hosts"))
	case internal > 0 && p.Network != nil:
		d.refuse(at(loc, "network"), errors.New("internal_ip is mutually exclusive with network"))
	}
	return d.problems
}
