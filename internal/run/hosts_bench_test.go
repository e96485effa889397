package run

import (
	"fmt"
	"slices"
	"testing"

	"dstack/internal/api"
	"dstack/internal/instance"
	"dstack/internal/scheduler"
)

// manyInstances are 10,000 in so many fleets.
func manyInstances(fleets int) [][]*instance.Instance {
	all := make([][]*instance.Instance, fleets)
	for f := range all {
		for n := range 10_000 / fleets {
			name, ip := fmt.Sprintf("127.64.%d.%d", f, n), "10.0.0.1"
			all[f] = append(all[f], &instance.Instance{ID: fmt.Sprint(f, "-", n), FleetID: fmt.Sprint(f), Num: n, Name: "h", Status: api.InstanceIdle, Blocks: 1, SSHHost: name + ":2222",
				Data: instance.Data{Provisioning: &api.JobProvisioningData{Backend: "remote", Hostname: &name, InternalIP: &ip, Region: "remote", InstanceType: api.InstanceType{Name: "ssh", Resources: api.Resources{
					CPUs: 8, MemoryMiB: 64 << 10, Gpus: []api.Gpu{{Name: "H100", MemoryMiB: 80 << 10, Vendor: "nvidia"}}}}}}})
		}
	}
	return all
}

// BenchmarkHosts puts 10,000 instances in 20 fleets in the scheduler's words for the first time.
func BenchmarkHosts(b *testing.B) {
	fleets := manyInstances(20)
	b.ReportAllocs()
	for b.Loop() {
		var c hostCache
		for f, list := range fleets {
			c.of(fmt.Sprint(f), list)
		}
	}
}

// BenchmarkHostChanged does what the first plan waits for after one of 10,000 instances has changed.
func BenchmarkHostChanged(b *testing.B) {
	for _, n := range []int{20, 1} {
		b.Run(fmt.Sprintf("%d fleets", n), func(b *testing.B) {
			var c hostCache
			fleets, lists := manyInstances(n), make([][]*scheduler.Host, n)
			look := func() {
				for f, list := range fleets {
					lists[f] = c.of(fmt.Sprint(f), list).list
				}
				c.stock("p", slices.Clone(lists))
			}
			look()
			b.ReportAllocs()
			for b.Loop() {
				f := b.N % n
				list := slices.Clone(fleets[f])
				list[7] = new(*list[7])
				fleets[f] = list
				look()
			}
		})
	}
}
