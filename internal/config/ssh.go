package config

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"strings"
)

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

func (p *SSHProxy) withoutKey() *SSHProxy {
	if p == nil {
		return nil
	}
	c := *p
	c.SSHKey = nil
	return &c
}
