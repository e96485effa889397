package run

import (
	"fmt"
	"testing"

	"dstack/internal/api"
	"dstack/internal/instance"
)

// BenchmarkHosts puts 10,000 instances in 20 fleets in the scheduler's words for the first time.
func BenchmarkHosts(b *testing.B) {
	fleets := make([][]*instance.Instance, 20)
	for f := range fleets {
		for n := range 500 {
			name, ip := fmt.Sprintf("127.64.%d.%d", f, n), "10.0.0.1"
			fleets[f] = append(fleets[f], &instance.Instance{ID: fmt.Sprint(f, "-", n), FleetID: fmt.Sprint(f), Num: n, Name: "h", Status: api.InstanceIdle, Blocks: 1, SSHHost: name + ":2222",
				Data: instance.Data{Provisioning: &api.JobProvisioningData{Backend: "remote", Hostname: &name, InternalIP: &ip, Region: "remote", InstanceType: api.InstanceType{Name: "ssh", Resources: api.Resources{
					CPUs: 8, MemoryMiB: 64 << 10, Gpus: []api.Gpu{{Name: "H100", MemoryMiB: 80 << 10, Vendor: "nvidia"}}}}}}})
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		var c hostCache
		for f, list := range fleets {
			c.of(fmt.Sprint(f), list)
		}
	}
}
