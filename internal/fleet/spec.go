package fleet

import (
	"slices"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/sshkey"
)

// maxNodes bounds how many instances one request makes.
const maxNodes = 10_000

// normalise applies the rules of configurations 7 in their order and fills in what the server
// decides.
func normalise(spec api.FleetSpec) (api.FleetSpec, error) {
	c := spec.Configuration
	if c.Name != nil {
		if err := config.CheckName(*c.Name); err != nil {
			return spec, api.Invalid("%v", err)
		}
	}
	var err error
	switch {
	case c.SSHConfig == nil && c.Nodes == nil:
		err = api.Invalid("No ssh_config or nodes specified")
	case c.SSHConfig != nil && c.Nodes != nil:
		err = api.Invalid("ssh_config and nodes are mutually exclusive")
	case c.SSHConfig == nil && len(c.Env) > 0:
		err = api.Invalid("Backend fleet configuration does not support the following fields: ['env']")
	case c.SSHConfig != nil:
		err = checkSSH(c)
	case c.Nodes.Target > maxNodes: // which is not below the minimum
		err = api.Invalid("nodes: a fleet cannot be made with more than %d instances", maxNodes)
	}
	if err != nil {
		return spec, err
	}
	if r := c.Resources; r != nil && r.GPU == nil {
		filled := *r
		filled.GPU = &config.GPU{Count: config.Between(0, -1)}
		spec.Configuration.Resources = &filled
	}
	return spec, nil
}

func checkSSH(c config.Fleet) error {
	var other []string
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"reservation", c.Reservation != nil}, {"resources", c.Resources != nil}, {"backends", c.Backends != nil}, {"regions", c.Regions != nil},
		{"availability_zones", c.AvailabilityZones != nil}, {"instance_types", c.InstanceTypes != nil}, {"spot_policy", c.SpotPolicy != nil},
		{"max_price", c.MaxPrice != nil}, {"idle_duration", c.IdleDuration != nil}, {"tags", c.Tags != nil}, {"backend_options", c.BackendOptions != nil},
	} {
		if f.set {
			other = append(other, f.name)
		}
	}
	if other != nil {
		return api.Invalid("SSH fleet configuration does not support the following fields: %s", api.List(other))
	}
	if err := checkKeys(c.SSHConfig); err != nil {
		return err
	}
	internal := 0
	for _, h := range c.SSHConfig.Hosts {
		if h.InternalIP != nil {
			internal++
		}
	}
	switch {
	case internal > 0 && internal < len(c.SSHConfig.Hosts):
		return api.Invalid("internal_ip must be specified for all hosts")
	case internal > 0 && c.SSHConfig.Network != nil:
		return api.Invalid("internal_ip is mutually exclusive with network")
	}
	return nil
}

// checkKeys wants a key and a user for every host, and keys that can be used.
func checkKeys(ssh *config.SSHParams) error {
	keys := []*config.SSHKey{ssh.SSHKey}
	for _, h := range ssh.Hosts {
		switch {
		case h.SSHKey == nil && ssh.SSHKey == nil:
			return api.Invalid("No ssh key specified for host %s", h.Hostname)
		case h.User == nil && ssh.User == nil:
			return api.Invalid("No ssh user specified for host %s", h.Hostname)
		}
		keys = append(keys, h.SSHKey)
		if h.ProxyJump != nil {
			keys = append(keys, h.ProxyJump.SSHKey)
		}
	}
	if ssh.ProxyJump != nil {
		keys = append(keys, ssh.ProxyJump.SSHKey)
	}
	for _, key := range keys {
		if key == nil {
			continue
		}
		if key.Private == nil {
			return api.Invalid("Private key not provided")
		}
		if _, err := sshkey.Signer(*key.Private); err != nil {
			return api.Invalid("%v", sshkey.ErrUnsupported)
		}
	}
	return nil
}

// Fields of a configuration that may change in place (lifecycle 6.3). Of SSH fleets, only which
// hosts there are.
var (
	cloudFields = []string{"nodes", "reservation", "tags", "resources", "backends", "regions", "availability_zones", "instance_types", "spot_policy", "max_price"}
	sshFields   = []string{"ssh_config.hosts"}
)

// changes compares two configurations and returns the hosts to add and to remove; an error
// when the change cannot be made in place.
func changes(old, now config.Fleet) (add, remove []config.SSHHost, err error) {
	if (old.SSHConfig == nil) != (now.SSHConfig == nil) {
		from, to := "Cloud", "SSH"
		if old.SSHConfig != nil {
			from, to = to, from
		}
		return nil, nil, api.Invalid("Fleet type changed from %s to %s, cannot update", from, to)
	}
	a, b := old.WithoutKeys(), now.WithoutKeys()
	if old.SSHConfig == nil {
		return nil, nil, onlyChanges(a, b, cloudFields)
	}
	add, remove, err = hostChanges(a.SSHConfig.Hosts, b.SSHConfig.Hosts)
	if err != nil {
		return nil, nil, err
	}
	for i, h := range add { // with their keys
		at := slices.IndexFunc(now.SSHConfig.Hosts, func(n config.SSHHost) bool { return n.Hostname == h.Hostname })
		add[i] = now.SSHConfig.Hosts[at]
	}
	a.SSHConfig.Hosts, b.SSHConfig.Hosts = nil, nil
	return add, remove, onlyChanges(a, b, sshFields)
}

// onlyChanges refuses differences in other fields than the allowed ones.
func onlyChanges(a, b config.Fleet, allowed []string) error {
	names, err := api.Differing(a, b)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(names, func(name string) bool { return !slices.Contains(allowed, name) }) {
		return api.Invalid("Failed to update fields %s. Can only update %s.", api.List(names), api.List(allowed))
	}
	return nil
}

// hostChanges tells hosts apart by their names.
func hostChanges(old, now []config.SSHHost) (add, remove []config.SSHHost, err error) {
	was, is := map[string]config.SSHHost{}, map[string]bool{}
	for _, h := range old {
		was[h.Hostname] = h
	}
	var other []string
	for _, h := range now {
		is[h.Hostname] = true
		o, ok := was[h.Hostname]
		if !ok {
			add = append(add, h)
		} else if !same(plain(o), plain(h)) {
			other = append(other, h.Hostname)
		}
	}
	if other != nil {
		return nil, nil, api.Invalid("Hosts configuration changed, cannot update: %s", api.List(other))
	}
	for _, h := range old {
		if !is[h.Hostname] {
			remove = append(remove, h)
		}
	}
	return add, remove, nil
}

// plain is a host without what may differ: where the keys are on the user's machine, and the
// form in which it is written.
func plain(h config.SSHHost) config.SSHHost {
	h.IdentityFile, h.Plain = nil, false
	if h.ProxyJump != nil {
		jump := *h.ProxyJump
		jump.IdentityFile = ""
		h.ProxyJump = &jump
	}
	return h
}

// same compares as on the wire.
func same[T any](a, b T) bool {
	names, err := api.Differing(a, b)
	return err == nil && names == nil
}
