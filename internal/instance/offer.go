package instance

import (
	"dstack/internal/api"
	"dstack/internal/offer"
)

// fromAPI turns a stored offer back into what backends take.
func fromAPI(o api.InstanceOffer) offer.Offer {
	res := o.Instance.Resources
	out := offer.Offer{
		Backend: string(o.Backend), Region: o.Region, Instance: o.Instance.Name, Price: o.Price, Zones: o.AvailabilityZones, Data: o.BackendData,
		Availability: offer.Availability(o.Availability), Runtime: string(o.InstanceRuntime),
		Resources: offer.Resources{CPUs: res.CPUs, MemoryMiB: res.MemoryMiB, DiskMiB: res.Disk.SizeMiB, Spot: res.Spot},
	}
	if res.CPUArch != nil {
		out.Resources.Arch = string(*res.CPUArch)
	}
	for _, g := range res.Gpus {
		out.Resources.GPUs = append(out.Resources.GPUs, offer.GPU{Name: g.Name, MemoryMiB: g.MemoryMiB, Vendor: string(g.Vendor)})
	}
	return out
}
