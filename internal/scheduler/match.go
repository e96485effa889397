package scheduler

import (
	"math"
	"slices"
	"strings"

	"dstack/internal/api"
	"dstack/internal/config"
)

// Fits says why an offer cannot serve the requirements: the first of [Misses.Words], "" when it can. The offer's resources are those that the job would get: a
// share, where a machine is divided. Of the profile count backends, regions, instance types
// and zones, of the requirements everything but the backends' own options (lifecycle 7.2, 7.4).
func Fits(req api.Requirements, p config.ProfileParams, o api.InstanceOffer) string {
	for r := range requirement(len(requirementWords)) {
		if r.excludes(&req, &p, &o) {
			return requirementWords[r]
		}
	}
	return ""
}

// requirement is one thing that can exclude an offer.
type requirement int

const (
	needBackend requirement = iota
	needRegion
	needInstanceType
	needZone
	needPrice
	needSpot
	needCPU
	needArch
	needMemory
	needDisk
	needGPU
	needGPUCount
	needGPUVendor
	needGPUName
	needGPUMemory
	needGPUTotalMemory
	needCapability
	needReservation
	needMultinode
)

var requirementWords = [...]string{
	needBackend:        "backends",
	needRegion:         "regions",
	needInstanceType:   "instance_types",
	needZone:           "availability_zones",
	needPrice:          "max_price",
	needSpot:           "spot_policy",
	needCPU:            "cpu",
	needArch:           "cpu.arch",
	needMemory:         "memory",
	needDisk:           "disk",
	needGPU:            "gpu",
	needGPUCount:       "gpu.count",
	needGPUVendor:      "gpu.vendor",
	needGPUName:        "gpu.name",
	needGPUMemory:      "gpu.memory",
	needGPUTotalMemory: "gpu.total_memory",
	needCapability:     "gpu.compute_capability",
	needReservation:    "reservation",
	needMultinode:      "nodes",
}

// excludes is the rule of one requirement. Nil lists and ranges ask for nothing, an empty
// list allows nothing. It allocates nothing, since plans ask it of every offer there is.
func (r requirement) excludes(req *api.Requirements, p *config.ProfileParams, o *api.InstanceOffer) bool {
	want, have := &req.Resources, &o.Instance.Resources
	switch r {
	case needBackend:
		return p.Backends != nil && !contains(p.Backends, string(o.Backend))
	case needRegion:
		return p.Regions != nil && !contains(p.Regions, o.Region)
	case needInstanceType:
		return p.InstanceTypes != nil && !contains(p.InstanceTypes, o.Instance.Name)
	case needZone:
		return p.AvailabilityZones != nil && !inZones(p.AvailabilityZones, o)
	case needPrice:
		return tooDear(req.MaxPrice, o.Price)
	case needSpot:
		return req.Spot != nil && *req.Spot != have.Spot
	case needCPU:
		return !want.CPU.Count.Contains(have.CPUs)
	case needArch:
		return want.CPU.Arch != nil && !strings.EqualFold(*want.CPU.Arch, arch(have))
	case needMemory:
		return !within(want.Memory, have.MemoryMiB)
	case needDisk: // 0 MiB is a size that nobody knows, or that is chosen later
		return want.Disk != nil && have.Disk.SizeMiB > 0 && !within(want.Disk.Size, have.Disk.SizeMiB)
	case needReservation: // an instance that exists is what it is, whoever reserved it
		return req.Reservation != nil && isNew(o) && !o.Reserves && !hasRoom(*req.Reservation, p.AvailabilityZones, o)
	case needMultinode: // where those are that exist, whoever places several looks at himself
		return req.Multinode != nil && *req.Multinode && isNew(o) && !o.Multinode
	default:
		return want.GPU != nil && r.excludesGPUs(want.GPU, have.Gpus)
	}
}

// tooDear excludes also what has no price (NaN).
func tooDear(most *float64, price float64) bool { return most != nil && !(price <= *most) }

// excludesGPUs is the rule of one requirement about GPUs. A machine has GPUs of one kind,
// so the first stands for all (lifecycle 7.2).
func (r requirement) excludesGPUs(want *config.GPU, have []api.Gpu) bool {
	var first api.Gpu
	switch {
	case len(have) > 0:
		first = have[0]
	case want.Count.Min != nil && *want.Count.Min == 0:
		return false // who is content with none asks nothing of them
	case !want.Count.Contains(0):
		return r == needGPU
	}
	switch r {
	case needGPUCount:
		return !want.Count.Contains(len(have))
	case needGPUVendor:
		return want.Vendor != nil && !strings.EqualFold(*want.Vendor, string(first.Vendor))
	case needGPUName:
		return want.Name != nil && !contains(want.Name, first.Name)
	case needGPUMemory:
		return want.Memory != nil && !within(*want.Memory, first.MemoryMiB)
	case needGPUTotalMemory:
		return want.TotalMemory != nil && !within(*want.TotalMemory, first.MemoryMiB*len(have))
	case needCapability:
		return want.ComputeCapability != nil && !capable(want.ComputeCapability, first)
	}
	return false
}

// capable says that a GPU has at least the compute capability asked for (major, minor),
// which only NVIDIA's have.
func capable(want []int, g api.Gpu) bool {
	if !strings.EqualFold(string(g.Vendor), "nvidia") {
		return false
	}
	have, known := config.GPUComputeCapability(g.Name)
	return known && slices.Compare(have[:], want) >= 0
}

// inZones says that an offer is in one of the zones. A new instance must say where it would
// be; one that exists and does not say may be anywhere (lifecycle 7.4, 7.6).
func inZones(zones []string, o *api.InstanceOffer) bool {
	if len(o.AvailabilityZones) == 0 {
		return !isNew(o)
	}
	for _, z := range o.AvailabilityZones {
		if contains(zones, z) {
			return true
		}
	}
	return false
}

// isNew says that the offer is of an instance to be created, by what its provider said
// about it; instances that exist are idle or busy.
func isNew(o *api.InstanceOffer) bool {
	switch o.Availability {
	case api.Unknown, api.Available, api.NotAvailable, api.NoQuota, api.NoBalance:
		return true
	}
	return false
}

// arch is the architecture of a machine's CPUs; one that does not say has the usual.
func arch(r *api.Resources) string {
	if r.CPUArch == nil {
		return "x86"
	}
	return string(*r.CPUArch)
}

// within says that a size lies in a range. Offers have whole MiB, so a bound between two of
// them is the nearer one: 15.6 GB is the 15974 MiB of a machine that is sold as such.
func within(r config.MemoryRange, mib int) bool {
	return (r.Min == nil || float64(mib) >= nearest(*r.Min)) && (r.Max == nil || float64(mib) <= nearest(*r.Max))
}

// nearest is a size in whole MiB, which may be more than an int holds.
func nearest(m config.Memory) float64 { return math.Round(float64(m) * 1024) }

// contains finds a word without regard to case.
func contains(list []string, s string) bool {
	for _, v := range list {
		if strings.EqualFold(v, s) {
			return true
		}
	}
	return false
}

// maxDisk is in MiB: an exbibyte, which nobody sells.
const maxDisk = 1 << 40

// Disk is the size in MiB to give an instance whose disk is chosen when it is created: the
// smallest that the requirements allow, 100 GB if they say nothing, among the sizes that the
// backend can make, 1 GB or more if it sets no lower bound. It is false when there is no such
// size, which excludes the offer (lifecycle 7.3). Offers with a disk of their own keep it.
func Disk(req config.Resources, sizes config.MemoryRange) (mib int, ok bool) {
	want := config.AtLeast(100)
	if req.Disk != nil {
		want = req.Disk.Size
	}
	if sizes.Min == nil {
		sizes.Min = config.AtLeast(1).Min
	}
	r, ok := commonSizes(want, sizes)
	if !ok || nearest(*r.Min) > maxDisk {
		return 0, false
	}
	return int(nearest(*r.Min)), true
}
