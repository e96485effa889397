package config

import (
	"math"
	"strconv"
	"strings"
	"sync"
)

// An Accelerator is a known kind of GPU, or of another device that jobs ask for as `gpu`.
type Accelerator struct {
	Name         string // as users write it; the same name in another case is the same kind
	Vendor       string // "nvidia", "amd", "intel", "tenstorrent"
	Memory       []int  // the sizes that one device is sold with, in GiB
	Architecture string // the vendor's word
	Capability   [2]int // NVIDIA's compute capability: major, minor
}

// accelerators is the one table of known kinds (catalog 6). It differs from the original's
// where that is wrong (catalog 11 #13): B300 has the capability 10.3, MI325X has 256 GiB. And
// it has kinds that the original lacks and clouds sell: those after GH200 and after MI355X.
// TPUs are not in it, see [ParseTPU].
var accelerators = sync.OnceValue(func() []Accelerator {
	return []Accelerator{
		{"A10", "nvidia", []int{24}, "Ampere", [2]int{8, 6}},
		{"A16", "nvidia", []int{16}, "Ampere", [2]int{8, 6}},
		{"A40", "nvidia", []int{48}, "Ampere", [2]int{8, 6}},
		{"A100", "nvidia", []int{40, 80}, "Ampere", [2]int{8, 0}},
		{"A10G", "nvidia", []int{24}, "Ampere", [2]int{8, 6}},
		{"A4000", "nvidia", []int{16}, "Ampere", [2]int{8, 6}},
		{"A4500", "nvidia", []int{20}, "Ampere", [2]int{8, 6}},
		{"A5000", "nvidia", []int{24}, "Ampere", [2]int{8, 6}},
		{"A6000", "nvidia", []int{48}, "Ampere", [2]int{8, 6}},
		{"H100", "nvidia", []int{80}, "Hopper", [2]int{9, 0}},
		{"H100NVL", "nvidia", []int{94}, "Hopper", [2]int{9, 0}},
		{"H200", "nvidia", []int{141}, "Hopper", [2]int{9, 0}},
		{"H200NVL", "nvidia", []int{141}, "Hopper", [2]int{9, 0}},
		{"B200", "nvidia", []int{180}, "Blackwell", [2]int{10, 0}},
		{"GB200", "nvidia", []int{186}, "Grace Blackwell", [2]int{10, 0}},
		{"B300", "nvidia", []int{270}, "Blackwell", [2]int{10, 3}},
		{"L4", "nvidia", []int{24}, "Ada", [2]int{8, 9}},
		{"L40", "nvidia", []int{48}, "Ada", [2]int{8, 9}},
		{"L40S", "nvidia", []int{48}, "Ada", [2]int{8, 9}},
		{"P100", "nvidia", []int{16}, "Pascal", [2]int{6, 0}},
		{"RTX2060", "nvidia", []int{6, 12}, "Turing", [2]int{7, 5}},
		{"RTX2060SUPER", "nvidia", []int{8}, "Turing", [2]int{7, 5}},
		{"RTX2070", "nvidia", []int{8}, "Turing", [2]int{7, 5}},
		{"RTX2070SUPER", "nvidia", []int{8}, "Turing", [2]int{7, 5}},
		{"RTX2080", "nvidia", []int{8}, "Turing", [2]int{7, 5}},
		{"RTX2080SUPER", "nvidia", []int{8}, "Turing", [2]int{7, 5}},
		{"RTX2080Ti", "nvidia", []int{11}, "Turing", [2]int{7, 5}},
		{"RTX3050", "nvidia", []int{6, 8}, "Ampere", [2]int{8, 6}},
		{"RTX3060", "nvidia", []int{8, 12}, "Ampere", [2]int{8, 6}},
		{"RTX3060Ti", "nvidia", []int{8}, "Ampere", [2]int{8, 6}},
		{"RTX3070", "nvidia", []int{8}, "Ampere", [2]int{8, 6}},
		{"RTX3070Ti", "nvidia", []int{8}, "Ampere", [2]int{8, 6}},
		{"RTX3080", "nvidia", []int{10}, "Ampere", [2]int{8, 6}},
		{"RTX3080Ti", "nvidia", []int{12}, "Ampere", [2]int{8, 6}},
		{"RTX3090", "nvidia", []int{24}, "Ampere", [2]int{8, 6}},
		{"RTX3090Ti", "nvidia", []int{24}, "Ampere", [2]int{8, 6}},
		{"RTX4060", "nvidia", []int{8}, "Ada", [2]int{8, 9}},
		{"RTX4060Ti", "nvidia", []int{8, 16}, "Ada", [2]int{8, 9}},
		{"RTX4070", "nvidia", []int{12}, "Ada", [2]int{8, 9}},
		{"RTX4070SUPER", "nvidia", []int{12}, "Ada", [2]int{8, 9}},
		{"RTX4070Ti", "nvidia", []int{12}, "Ada", [2]int{8, 9}},
		{"RTX4070TiSUPER", "nvidia", []int{16}, "Ada", [2]int{8, 9}},
		{"RTX4080", "nvidia", []int{16}, "Ada", [2]int{8, 9}},
		{"RTX4080SUPER", "nvidia", []int{16}, "Ada", [2]int{8, 9}},
		{"RTX4090", "nvidia", []int{24}, "Ada", [2]int{8, 9}},
		{"RTX5060", "nvidia", []int{8}, "Blackwell", [2]int{12, 0}},
		{"RTX5060Ti", "nvidia", []int{8, 16}, "Blackwell", [2]int{12, 0}},
		{"RTX5070", "nvidia", []int{12}, "Blackwell", [2]int{12, 0}},
		{"RTX5070Ti", "nvidia", []int{16}, "Blackwell", [2]int{12, 0}},
		{"RTX5080", "nvidia", []int{16}, "Blackwell", [2]int{12, 0}},
		{"RTX5090", "nvidia", []int{32}, "Blackwell", [2]int{12, 0}},
		{"RTX6000", "nvidia", []int{24}, "Turing", [2]int{7, 5}},
		{"RTX2000Ada", "nvidia", []int{16}, "Ada", [2]int{8, 9}},
		{"RTX4000Ada", "nvidia", []int{20}, "Ada", [2]int{8, 9}},
		{"RTX6000Ada", "nvidia", []int{48}, "Ada", [2]int{8, 9}},
		{"RTXPRO4500", "nvidia", []int{32}, "Blackwell", [2]int{12, 0}},
		{"RTXPRO6000", "nvidia", []int{96}, "Blackwell", [2]int{12, 0}},
		{"T4", "nvidia", []int{16}, "Turing", [2]int{7, 5}},
		{"V100", "nvidia", []int{16, 32}, "Volta", [2]int{7, 0}},
		{"GH200", "nvidia", []int{96}, "Grace Hopper", [2]int{9, 0}},
		{"GB300", "nvidia", []int{270}, "Grace Blackwell", [2]int{10, 3}},
		{"H20", "nvidia", []int{96, 141}, "Hopper", [2]int{9, 0}},
		{"A2", "nvidia", []int{16}, "Ampere", [2]int{8, 6}},
		{"A30", "nvidia", []int{24}, "Ampere", [2]int{8, 0}},
		{"A800", "nvidia", []int{40, 80}, "Ampere", [2]int{8, 0}},
		{"RTX8000", "nvidia", []int{48}, "Turing", [2]int{7, 5}},
		{"P4", "nvidia", []int{8}, "Pascal", [2]int{6, 1}},
		{"P40", "nvidia", []int{24}, "Pascal", [2]int{6, 1}},
		{"M60", "nvidia", []int{8}, "Maxwell", [2]int{5, 2}},
		{"K80", "nvidia", []int{12}, "Kepler", [2]int{3, 7}},
		{"H800", "nvidia", []int{80}, "Hopper", [2]int{9, 0}},
		{"L20", "nvidia", []int{48}, "Ada", [2]int{8, 9}},
		{"A2000", "nvidia", []int{6, 12}, "Ampere", [2]int{8, 6}},
		{"A5500", "nvidia", []int{24}, "Ampere", [2]int{8, 6}},
		{"RTX4000", "nvidia", []int{8}, "Turing", [2]int{7, 5}},
		{"RTX5000", "nvidia", []int{16}, "Turing", [2]int{7, 5}},
		{"RTX4500Ada", "nvidia", []int{24}, "Ada", [2]int{8, 9}},
		{"RTX5000Ada", "nvidia", []int{32}, "Ada", [2]int{8, 9}},
		{"RTXPRO4000", "nvidia", []int{24}, "Blackwell", [2]int{12, 0}},
		{"RTXPRO5000", "nvidia", []int{48, 72}, "Blackwell", [2]int{12, 0}},
		{"T4G", "nvidia", []int{16}, "Turing", [2]int{7, 5}},
		{"MI100", "amd", []int{32}, "CDNA", [2]int{}},
		{"MI210", "amd", []int{64}, "CDNA2", [2]int{}},
		{"MI250", "amd", []int{128}, "CDNA2", [2]int{}},
		{"MI250X", "amd", []int{128}, "CDNA2", [2]int{}},
		{"MI300A", "amd", []int{128}, "CDNA3", [2]int{}},
		{"MI300X", "amd", []int{192}, "CDNA3", [2]int{}},
		{"MI308X", "amd", []int{128}, "CDNA3", [2]int{}},
		{"MI325X", "amd", []int{256}, "CDNA3", [2]int{}},
		{"MI350X", "amd", []int{288}, "CDNA4", [2]int{}},
		{"MI355X", "amd", []int{288}, "CDNA4", [2]int{}},
		{"MI25", "amd", []int{16}, "Vega", [2]int{}},
		{"V620", "amd", []int{32}, "RDNA2", [2]int{}},
		{"Gaudi", "intel", []int{32}, "Gaudi", [2]int{}},
		{"Gaudi2", "intel", []int{96}, "Gaudi 2", [2]int{}},
		{"Gaudi3", "intel", []int{128}, "Gaudi 3", [2]int{}},
		{"n150", "tenstorrent", []int{12}, "Wormhole", [2]int{}},
		{"n300", "tenstorrent", []int{24}, "Wormhole", [2]int{}},
		{"tt-galaxy-wh", "tenstorrent", []int{12}, "Wormhole", [2]int{}},
		{"p100a", "tenstorrent", []int{28}, "Blackhole", [2]int{}},
		{"p150", "tenstorrent", []int{32}, "Blackhole", [2]int{}},
		{"p300", "tenstorrent", []int{32, 64}, "Blackhole", [2]int{}},
		{"tt-galaxy-bh", "tenstorrent", []int{32}, "Blackhole", [2]int{}},
	}
})

// Accelerators lists the known kinds of every vendor but Google. The list is shared: callers
// must not change it.
func Accelerators() []Accelerator { return accelerators() }

// FindAccelerator returns the known kind of a name in any case.
func FindAccelerator(name string) (a Accelerator, ok bool) {
	for _, a := range accelerators() {
		if strings.EqualFold(a.Name, name) {
			return a, true
		}
	}
	return a, false
}

// GPUVendorOf is the vendor of a known GPU name, "" for an unknown one.
func GPUVendorOf(name string) string {
	if a, ok := FindAccelerator(name); ok {
		return a.Vendor
	}
	if _, ok := ParseTPU(name); ok {
		return "google"
	}
	return ""
}

// GPUComputeCapability is the compute capability (major, minor) of a known NVIDIA GPU.
func GPUComputeCapability(name string) (capability [2]int, ok bool) {
	a, ok := FindAccelerator(name)
	return a.Capability, ok && a.Vendor == "nvidia"
}

// GPUMemoryMiB corrects what a driver or a provider reports: it is a little below the size
// that the GPU is sold with, or for MI325X what the original's table says. Of GPUs that are not
// known it rounds to whole GiB.
func GPUMemoryMiB(name string, mib int) int {
	gib := float64(mib) / 1024
	if name == "MI325X" && mib == 288<<10 {
		return 256 << 10
	}
	best := 0
	for _, a := range accelerators() {
		if a.Name != name {
			continue
		}
		for _, size := range a.Memory {
			if best == 0 || math.Abs(gib-float64(size)) < math.Abs(gib-float64(best)) {
				best = size
			}
		}
	}
	if best > 0 && math.Abs(gib-float64(best)) < 0.07*float64(best) {
		return best * 1024
	}
	return int(math.Round(gib)) * 1024
}

// A TPU is what one instance of a type such as v5litepod-8 has. Requests and offers count it
// as one GPU of that name.
type TPU struct {
	Version   string // "v5litepod"
	Chips     int
	MemoryGiB int // of all chips
}

// ParseTPU reads the name of a type of TPU in any case: a known version and a number, which
// counts cores, two to a chip, in the versions that have them.
func ParseTPU(name string) (t TPU, ok bool) {
	version, digits, found := strings.Cut(strings.ToLower(name), "-")
	if !found || digits == "" || !allDigits(digits) {
		return t, false
	}
	cores, memory := 1, 0 // to a chip
	switch version {
	case "v2":
		cores, memory = 2, 16
	case "v3", "v4":
		cores, memory = 2, 32
	case "v5p":
		cores, memory = 2, 95
	case "v5litepod":
		memory = 16
	case "v6e":
		memory = 32
	default:
		return t, false
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n > 1<<20 { // a pod has thousands
		n = 0
	}
	return TPU{Version: version, Chips: n / cores, MemoryGiB: n / cores * memory}, true
}
