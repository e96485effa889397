package fleet

import (
	"slices"

	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/sshkey"
)

// normalise applies the rules of configurations 7 in their order and fills in what the server
// decides.
func normalise(spec api.FleetSpec) (api.FleetSpec, error) {
	c := spec.Configuration
	if refused := c.Refused(); len(refused) > 0 {
		return spec, api.Invalid("%s", refused[0].Msg)
	}
	if c.SSHConfig != nil {
		if err := checkKeys(c.SSHConfig); err != nil {
			return spec, err
		}
	}
	if refused := c.RefusedAddresses(); len(refused) > 0 {
		return spec, api.Invalid("%s", refused[0].Msg)
	}
	if r := c.Resources; r != nil && r.GPU == nil {
		filled := *r
		filled.GPU = &config.GPU{Count: config.Between(0, -1)}
		spec.Configuration.Resources = &filled
	}
	return spec, nil
}

// checkKeys wants a key for every host, and keys that can be used.
func checkKeys(ssh *config.SSHParams) error {
	keys := []*config.SSHKey{ssh.SSHKey}
	for _, h := range ssh.Hosts {
		if h.SSHKey == nil && ssh.SSHKey == nil {
			return api.Invalid("No ssh key specified for host %s", h.Hostname)
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
	added, remove, err := hostChanges(a.SSHConfig.Hosts, b.SSHConfig.Hosts)
	if err != nil {
		return nil, nil, err
	}
	for _, n := range added { // with their keys
		add = append(add, now.SSHConfig.Hosts[n])
	}
	for _, c := range []*config.SSHParams{a.SSHConfig, b.SSHConfig} {
		c.Hosts, c.IdentityFile = nil, nil // where the keys are on the user's machine is no change
		if c.ProxyJump != nil {
			jump := *c.ProxyJump
			jump.IdentityFile = ""
			c.ProxyJump = &jump
		}
	}
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

// hostChanges tells hosts apart by their names, and those of one name, which have ports of their own behind one
// address, by what else is said of them. What is new is told by its place.
func hostChanges(old, now []config.SSHHost) (add []int, remove []config.SSHHost, err error) {
	left := map[string][]int{} // of old, by name: those that are not found in now
	for n, h := range old {
		left[h.Hostname] = append(left[h.Hostname], n)
	}
	for n, h := range now {
		list := left[h.Hostname]
		at := slices.IndexFunc(list, func(o int) bool { return same(plain(old[o]), plain(h)) })
		if at < 0 {
			add = append(add, n)
		} else {
			left[h.Hostname] = slices.Delete(list, at, at+1)
		}
	}
	var other []string
	for _, n := range add {
		if name := now[n].Hostname; len(left[name]) > 0 {
			other = append(other, name)
		}
	}
	if other != nil {
		return nil, nil, api.Invalid("Hosts configuration changed, cannot update: %s", api.List(other))
	}
	for n, h := range old {
		if slices.Contains(left[h.Hostname], n) {
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
