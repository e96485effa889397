package format

import (
	"fmt"
	"strconv"
	"strings"

	"dstack/internal/config"
)

// Requirements writes what a run asks for: cpu=x86:2.. mem=8GB.. disk=100GB.. gpu=A100:80GB:8.
func Requirements(r config.Resources) string {
	cpu := "cpu="
	if r.CPU.Arch != nil {
		cpu += *r.CPU.Arch + ":"
	}
	parts := []string{cpu + IntRange(r.CPU.Count), "mem=" + MemoryRange(r.Memory)}
	if r.Disk != nil {
		parts = append(parts, "disk="+MemoryRange(r.Disk.Size))
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
	case len(g.Name) > 0:
		parts = append(parts, strings.Join(g.Name, ","))
	case g.Vendor != nil:
		parts = append(parts, *g.Vendor)
	}
	if g.Memory != nil {
		parts = append(parts, MemoryRange(*g.Memory))
	}
	parts = append(parts, IntRange(g.Count))
	if g.TotalMemory != nil {
		parts = append(parts, MemoryRange(*g.TotalMemory))
	}
	if len(g.ComputeCapability) == 2 {
		parts = append(parts, fmt.Sprintf("%d.%d", g.ComputeCapability[0], g.ComputeCapability[1]))
	}
	return strings.Join(parts, ":")
}

// IntRange writes a..b, a.., ..b, or a if both ends are equal.
func IntRange(r config.IntRange) string {
	return ends(r.Min != nil && r.Max != nil && *r.Min == *r.Max, number(r.Min), number(r.Max))
}

// MemoryRange is as [IntRange] with GB.
func MemoryRange(r config.MemoryRange) string {
	return ends(r.Min != nil && r.Max != nil && *r.Min == *r.Max, gb(r.Min), gb(r.Max))
}

func ends(same bool, lo, hi string) string {
	if same {
		return lo
	}
	return lo + ".." + hi
}

func number(n *int) string {
	if n == nil {
		return ""
	}
	return strconv.Itoa(*n)
}

func gb(m *config.Memory) string {
	if m == nil {
		return ""
	}
	return GB(float64(*m))
}
