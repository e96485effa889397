// Package scheduler matches what jobs need with what instances and offers have. It is pure:
// values in, values out, with the reason for every exclusion.
package scheduler

import (
	"sort"
	"strings"

	"dstack/internal/api"
	"dstack/internal/config"
)

// Fits says why an offer cannot serve the requirements, "" when it can. blocks are the
// resources of the share that the job would get.
func Fits(req api.Requirements, p config.ProfileParams, o api.InstanceOffer) string {
	res := o.Instance.Resources
	switch {
	case p.Backends != nil && !contains(p.Backends, string(o.Backend)):
		return "backends"
	case p.Regions != nil && !contains(p.Regions, o.Region):
		return "regions"
	case p.InstanceTypes != nil && !contains(p.InstanceTypes, o.Instance.Name):
		return "instance_types"
	case req.MaxPrice != nil && o.Price > *req.MaxPrice:
		return "max_price"
	case req.Spot != nil && *req.Spot != res.Spot:
		return "spot_policy"
	}
	return resources(req.Resources, res)
}

func resources(want config.Resources, have api.Resources) string {
	switch {
	case !want.CPU.Count.Contains(have.CPUs):
		return "cpu"
	case want.CPU.Arch != nil && have.CPUArch != nil && *want.CPU.Arch != string(*have.CPUArch):
		return "cpu.arch"
	case !want.Memory.Contains(float64(have.MemoryMiB) / 1024):
		return "memory"
	case want.Disk != nil && have.Disk.SizeMiB > 0 && !want.Disk.Size.Contains(float64(have.Disk.SizeMiB)/1024):
		return "disk"
	}
	return gpu(want.GPU, have.Gpus)
}

func gpu(want *config.GPU, have []api.Gpu) string {
	if want == nil {
		return ""
	}
	if !want.Count.Contains(len(have)) {
		return "gpu.count"
	}
	if len(have) == 0 {
		return "" // a count that allows none asks nothing of them
	}
	first := have[0]
	switch {
	case want.Vendor != nil && *want.Vendor != string(first.Vendor):
		return "gpu.vendor"
	case want.Name != nil && !contains(want.Name, first.Name):
		return "gpu.name"
	case want.Memory != nil && !want.Memory.Contains(float64(first.MemoryMiB)/1024):
		return "gpu.memory"
	}
	total := 0
	for _, g := range have {
		total += g.MemoryMiB
	}
	if want.TotalMemory != nil && !want.TotalMemory.Contains(float64(total)/1024) {
		return "gpu.total_memory"
	}
	return ""
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if strings.EqualFold(v, s) {
			return true
		}
	}
	return false
}

// Share is the part of a machine that blocks of total get (host-agents 1.9).
func Share(r api.Resources, blocks, total int) api.Resources {
	if total <= 1 || blocks == total {
		return r
	}
	r.CPUs = r.CPUs / total * blocks
	r.MemoryMiB = r.MemoryMiB / total * blocks
	r.Gpus = r.Gpus[:len(r.Gpus)/total*blocks]
	return r
}

// Blocks is the smallest share of a machine that serves the requirements, 0 when none of
// the free ones does; why is the reason of the largest.
func Blocks(req api.Requirements, p config.ProfileParams, o api.InstanceOffer, total, free int) (n int, why string) {
	why = "busy"
	for n := 1; n <= free; n++ {
		share := o
		share.Instance.Resources = Share(o.Instance.Resources, n, total)
		if why = Fits(req, p, share); why == "" {
			return n, ""
		}
	}
	return 0, why
}

// Sort orders offers: what can be used first, then by price.
func Sort(offers []api.InstanceOffer) {
	sort.SliceStable(offers, func(i, j int) bool {
		a, b := offers[i], offers[j]
		if a.Availability.Usable() != b.Availability.Usable() {
			return a.Availability.Usable()
		}
		return a.Price < b.Price
	})
}
