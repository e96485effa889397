package format

import (
	"fmt"
	"strings"

	"dstack/internal/api"
)

// Backend is the name of a backend and, if given, the region.
func Backend(name, region string) string {
	if name == "" {
		return "-"
	}
	if name == "remote" {
		name = "ssh"
	}
	if region == "" {
		return name
	}
	return fmt.Sprintf("%s (%s)", name, region)
}

// Resources of a machine: cpu=x86:2 mem=23.5GB disk=75.9GB gpu=A100:80GB:8. Parts that it lacks are left out.
func Resources(r api.Resources) string {
	var parts []string
	if r.CPUs > 0 {
		arch := ""
		if r.CPUArch != nil {
			arch = string(*r.CPUArch) + ":"
		}
		parts = append(parts, fmt.Sprintf("cpu=%s%d", arch, r.CPUs))
	}
	if r.MemoryMiB > 0 {
		parts = append(parts, "mem="+MiB(r.MemoryMiB))
	}
	if r.Disk.SizeMiB > 0 {
		parts = append(parts, "disk="+MiB(r.Disk.SizeMiB))
	}
	if g := gpus(r); g != "" {
		parts = append(parts, g)
	}
	return strings.Join(parts, " ")
}

// GPUs of a machine alone: gpu=A100:80GB:8, or "-" if it has none.
func GPUs(r api.Resources) string {
	if g := gpus(r); g != "" {
		return g
	}
	return "-"
}

func gpus(r api.Resources) string {
	if len(r.Gpus) == 0 {
		return ""
	}
	g := "gpu=" + strings.TrimPrefix(r.Gpus[0].Name, "tpu-")
	if m := r.Gpus[0].MemoryMiB; m > 0 {
		g += ":" + MiB(m)
	}
	return fmt.Sprintf("%s:%d", g, len(r.Gpus))
}

// Spot is the mark of machines that may be taken away.
func Spot(spot bool) string {
	if spot {
		return " (spot)"
	}
	return ""
}

// SpotPolicy says which instances are asked for, nil for any.
func SpotPolicy(spot *bool) string {
	switch {
	case spot == nil:
		return "auto"
	case *spot:
		return "spot"
	}
	return "on-demand"
}

// Availability of an offer; empty if there is nothing to say.
func Availability(a string) string {
	if a == "unknown" || a == "available" {
		return ""
	}
	return strings.ReplaceAll(a, "_", " ")
}
