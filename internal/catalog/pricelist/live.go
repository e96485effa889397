package pricelist

import (
	"fmt"
	"math"
	"slices"

	"dstack/internal/config"
	"dstack/internal/offer"
)

// maxGPUMiB is above what any accelerator has, a tebibyte.
const maxGPUMiB = 1 << 20

// availabilities are what a backend may say, "" for nothing.
var availabilities = []offer.Availability{"", offer.Unknown, offer.Available, offer.NotAvailable, offer.NoQuota, offer.NoBalance, offer.Idle, offer.Busy}

// CheckLive says what is wrong with an offer that a backend has just made, nil if nothing is. It
// has the rules of rows of a list, but what an account has may be free, of sizes that are not
// told, and with GPUs that are newer than this program.
func CheckLive(o offer.Offer) error {
	bad := func(column, format string, args ...any) error {
		return &FieldError{column, fmt.Sprintf(format, args...)}
	}
	noName := func(s string) bool { return !isName(s) }
	switch res := o.Resources; {
	case !isName(o.Backend):
		return bad("backend", "%.40q is not a name of 1 to %d bytes", o.Backend, maxName)
	case !isName(o.Instance):
		return bad("instance", "%.40q is not a name of 1 to %d bytes", o.Instance, maxName)
	case o.Region != "" && !isName(o.Region):
		return bad("region", "%.40q is not a name of 1 to %d bytes", o.Region, maxName)
	case slices.ContainsFunc(o.Zones, noName):
		return bad("zones", "have what is not a name of 1 to %d bytes", maxName)
	case math.IsNaN(o.Price) || o.Price < 0 || o.Price > maxPrice:
		return bad("price", "%v is not 0 to %d US dollars per hour", o.Price, maxPrice)
	case res.CPUs < 0 || res.CPUs > maxCPUs:
		return bad("cpus", "%d is not 0 to %d", res.CPUs, maxCPUs)
	case res.MemoryMiB < 0 || res.MemoryMiB > maxMiB:
		return bad("memory", "%d MiB is not 0 to %d", res.MemoryMiB, maxMiB)
	case res.DiskMiB < 0 || res.DiskMiB > maxMiB:
		return bad("disk", "%d MiB is not 0 to %d", res.DiskMiB, maxMiB)
	case res.Arch != "" && res.Arch != "x86" && res.Arch != "arm":
		return bad("arch", "%.40q is not x86 or arm", res.Arch)
	case len(res.GPUs) > maxGPUs:
		return bad("gpus", "%d are not 0 to %d", len(res.GPUs), maxGPUs)
	case !slices.Contains(availabilities, o.Availability):
		return bad("availability", "%.40q is not known", o.Availability)
	}
	for _, g := range o.Resources.GPUs {
		switch vendor := config.GPUVendorOf(g.Name); {
		case !isName(g.Name):
			return bad("gpu name", "%.40q is not a name of 1 to %d bytes", g.Name, maxName)
		case g.Vendor != "" && (!isName(g.Vendor) || vendor != "" && g.Vendor != vendor):
			return bad("gpu vendor", "%.40q does not make %s", g.Vendor, g.Name)
		case g.MemoryMiB < 0 || g.MemoryMiB > maxGPUMiB:
			return bad("gpu memory", "%d MiB is not 0 to %d", g.MemoryMiB, maxGPUMiB)
		}
	}
	return nil
}
