package instance

import "dstack/internal/api"

// View is the instance as the wire has it.
func View(i *Instance, projectName, fleetName string) api.Instance {
	v := api.Instance{
		ID: i.ID, ProjectName: projectName, Name: i.Name, FleetID: &i.FleetID, FleetName: &fleetName, InstanceNum: i.Num, Status: i.Status.Shown(),
		Unreachable: i.Unreachable, HealthStatus: i.health(), Created: api.At(i.CreatedAt), FinishedAt: api.OptTime(i.FinishedAt), BusyBlocks: i.Busy(),
	}
	if i.Backend != "" {
		b := api.BackendType(i.Backend)
		v.Backend = &b
	}
	if i.Data.Reason != "" {
		reason := string(i.Data.Reason)
		v.TerminationReason = &reason
		if i.Data.Message != "" {
			v.TerminationReasonMessage = &i.Data.Message
		}
	}
	if i.Blocks > 0 {
		v.TotalBlocks = &i.Blocks
	}
	if r := i.Data.Remote; r != nil {
		region, price := Remote, 0.0
		v.Hostname, v.Region, v.Price = &r.Host.Hostname, &region, &price
		v.InstanceType = &api.InstanceType{Name: "ssh", Resources: api.Resources{CPUs: 2, MemoryMiB: 8192, Gpus: []api.Gpu{}, Disk: api.Disk{SizeMiB: 102400}}}
	}
	if o := i.Data.Offer; o != nil {
		v.Region, v.Price, v.InstanceType = &o.Region, &o.Price, &o.Instance
	}
	if p := i.Data.Provisioning; p != nil {
		v.InstanceType, v.Hostname, v.AvailabilityZone, v.GPUDriver = &p.InstanceType, p.Hostname, p.AvailabilityZone, p.GPUDriver
	}
	return v
}
