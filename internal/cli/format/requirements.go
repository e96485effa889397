package format

import (
	"fmt"
	"strings"

	"dstack/internal/config"
)

// Requirements writes what a run asks for: cpu=x86:2.. mem=8GB.. disk=100GB.. gpu=A100:80GB:8.
func Requirements(r config.Resources) string {
	cpu := "cpu="
	if r.CPU.Arch != nil {
		cpu += *r.CPU.Arch + ":"
	}
	parts := []string{cpu + r.CPU.Count.String(), "mem=" + r.Memory.String()}
	if r.Disk != nil {
		parts = append(parts, "disk="+r.Disk.Size.String())
	}
	if r.GPU != nil {
		parts = append(parts, "gpu="+GPU(*r.GPU))
	}
	return strings.Join(parts, " ")
}

// GPU writes name or vendor, memory, count, total memory and compute capability, as far as they are asked for.
func GPU(g config.GPU) string {
	var parts []string
	switch {
	case len(g.Name) == 1 && g.Name[0] == "": // of the name "tpu-"
	case len(g.Name) > 0:
		parts = append(parts, strings.Join(g.Name, ","))
	case g.Vendor != nil:
		parts = append(parts, *g.Vendor)
	}
	if g.Memory != nil {
		parts = append(parts, g.Memory.String())
	}
	parts = append(parts, g.Count.String())
	if g.TotalMemory != nil {
		parts = append(parts, g.TotalMemory.String())
	}
	if len(g.ComputeCapability) == 2 {
		parts = append(parts, fmt.Sprintf("%d.%d", g.ComputeCapability[0], g.ComputeCapability[1]))
	}
	return strings.Join(parts, ":")
}
