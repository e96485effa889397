package instance

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"dstack/internal/agentapi"
	"dstack/internal/api"
	"dstack/internal/config"
	"dstack/internal/scheduler"
)

// Texts of lifecycle 10.1; clients show them.
var (
	errNoNetwork  = errors.New("Failed to locate internal IP address on the given network")
	errNoInternal = errors.New("Specified internal IP not found among instance interfaces")
	errBlocks     = errors.New("Cannot split into blocks")
)

// describeSSH derives what an SSH host is from what its agent reported (host-agents 9.5).
func describeSSH(h RemoteHost, info agentapi.HostInfo) (api.JobProvisioningData, error) {
	ip, err := internalIP(h, info)
	if err != nil {
		return api.JobProvisioningData{}, err
	}
	res := Resources(info)
	port := h.Host.Port
	hostname := h.Host.Hostname
	jpd := api.JobProvisioningData{
		Backend: Remote, InstanceType: api.InstanceType{Name: "instance", Resources: res},
		InstanceID: "instance_id", Hostname: &hostname, PublicIPEnabled: true,
		Region: Remote, Username: h.Host.User, SSHPort: &port, Dockerized: true,
	}
	if ip.addr != "" {
		jpd.InternalIP = &ip.addr
	}
	if h.Network != "" && ip.prefix != "" {
		jpd.InstanceNetwork = &ip.prefix
	}
	if h.Jump != nil {
		jpd.SSHProxy = &api.SSHConnectionParams{Hostname: h.Jump.Hostname, Username: h.Jump.User, Port: h.Jump.Port}
	}
	if gpus := allGPUs(info); len(gpus) > 0 && gpus[0].Driver != "" {
		vendor := api.AcceleratorVendor(info.GPUVendor)
		jpd.GPUDriver = &api.GPUDriverInfo{Vendor: &vendor, Version: gpus[0].Driver}
	}
	return jpd, nil
}

type address struct{ addr, prefix string }

// internalIP picks the address by which the other nodes reach the host: the one given,
// the one inside the fleet's network, or that of the default route's interface.
func internalIP(h RemoteHost, info agentapi.HostInfo) (address, error) {
	var prefixes []netip.Prefix
	for _, a := range info.Addresses {
		if p, err := netip.ParsePrefix(a); err == nil {
			prefixes = append(prefixes, p)
		}
	}
	if h.InternalIP != "" {
		for _, p := range prefixes {
			if p.Addr().String() == h.InternalIP {
				return address{h.InternalIP, p.String()}, nil
			}
		}
		return address{}, errNoInternal
	}
	if h.Network != "" {
		network, err := netip.ParsePrefix(h.Network)
		if err != nil {
			return address{}, errNoNetwork
		}
		for _, p := range prefixes {
			if p.Addr().Is4() && p.Addr().IsPrivate() && network.Masked().Contains(p.Addr()) {
				return address{p.Addr().String(), p.String()}, nil
			}
		}
		return address{}, errNoNetwork
	}
	if info.DefaultAddress != "" {
		return address{addr: strings.SplitN(info.DefaultAddress, "/", 2)[0]}, nil
	}
	for _, p := range prefixes {
		if p.Addr().Is4() {
			return address{addr: p.Addr().String()}, nil
		}
	}
	return address{}, nil
}

// allGPUs is what the host has when nothing is left of tasks that have ended: what it is taken with stays for good.
func allGPUs(info agentapi.HostInfo) []agentapi.GPU { return slices.Concat(info.GPUs, info.HeldGPUs) }

// Resources translates what an agent found into the wire's terms.
func Resources(info agentapi.HostInfo) api.Resources {
	arch := api.CPUArchitecture(info.Arch)
	r := api.Resources{
		CPUs: info.CPUs, MemoryMiB: int(info.Memory >> 20),
		Gpus: []api.Gpu{}, Disk: api.Disk{SizeMiB: int(info.DiskSize >> 20)}, CPUArch: &arch,
	}
	for _, g := range allGPUs(info) {
		name := config.GPUName(info.GPUVendor, g.Name)
		r.Gpus = append(r.Gpus, api.Gpu{Name: name, MemoryMiB: config.GPUMemoryMiB(name, g.MemoryMiB), Vendor: api.AcceleratorVendor(info.GPUVendor)})
	}
	return r
}

// splitBlocks says in how many equal parts a machine can be shared (host-agents 1.9).
func splitBlocks(want int, auto bool, r api.Resources) (int, error) {
	n, ok := scheduler.Divide(want, auto, r.CPUs, len(r.Gpus))
	if !ok {
		return 0, errBlocks
	}
	return n, nil
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func upper[T ~string](s T) string { return strings.ToUpper(fmt.Sprint(string(s))) }
