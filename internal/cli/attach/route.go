// Package attach connects the user's machine to a job: an SSH connection in this process that forwards ports,
// and entries in ~/.dstack/ssh/config so that the system's ssh and editors reach the job by the run's name.
//
// Tests run it against an SSH server in the same process.
package attach

import (
	"strconv"

	"golang.org/x/crypto/ssh"
)

// A Hop is one SSH server on the way to the job.
type Hop struct {
	Alias    string // its name in the SSH configuration
	Hostname string
	Port     int
	User     string
	// Tunnel is the user of the connection that forwards ports, if not User.
	Tunnel string
	// Identity is the path of the private key for this hop; empty leaves the choice to the SSH client.
	Identity string
	// Verified hops have a stable host key, which the user's known hosts are asked about.
	Verified bool
}

// A Route leads to the job; each hop is reached through the one before. The last is the job itself.
type Route []Hop

// Name is the alias by which users reach the job.
func (r Route) Name() string { return r[len(r)-1].Alias }

// Aliases of all hops.
func (r Route) Aliases() []string {
	names := make([]string, len(r))
	for i, h := range r {
		names[i] = h.Alias
	}
	return names
}

// Hosts are the blocks of the SSH configuration for this route.
func (r Route) Hosts() []Host {
	hosts := make([]Host, len(r))
	for i, h := range r {
		o := [][2]string{{"HostName", h.Hostname}, {"Port", strconv.Itoa(h.Port)}, {"User", h.User}}
		if h.Identity != "" {
			o = append(o, [2]string{"IdentityFile", h.Identity}, [2]string{"IdentitiesOnly", "yes"})
		}
		if !h.Verified {
			o = append(o, [2]string{"StrictHostKeyChecking", "no"}, [2]string{"UserKnownHostsFile", "/dev/null"})
		}
		if i > 0 {
			o = append(o, [2]string{"ProxyJump", r[i-1].Alias})
		}
		hosts[i] = Host{Name: h.Alias, Options: o}
	}
	return hosts
}

func (h Hop) user() string {
	if h.Tunnel != "" {
		return h.Tunnel
	}
	return h.User
}

// hostKeys accepts any key of hosts that live as long as a job; there is nothing to compare with.
func (h Hop) hostKeys(known ssh.HostKeyCallback) ssh.HostKeyCallback {
	if h.Verified && known != nil {
		return known
	}
	return ssh.InsecureIgnoreHostKey() //nolint:gosec // see above: the server names host and key of an ephemeral host
}
