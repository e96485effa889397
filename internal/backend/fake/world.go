package fake

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"dstack/internal/backend"
	"dstack/internal/offer"
)

// What the world does to a cloud, and what a test may look at from the outside.

// Machine is one machine that costs money.
type Machine struct {
	ID, Name string
	Tags     map[string]string
	Price    float64
	Since    time.Time
}

// Live lists the machines that cost money now, in the order of their creation.
func (c *Cloud) Live() []Machine {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settleDeletions()
	var all []Machine
	for _, id := range slices.Sorted(maps.Keys(c.machines)) {
		if m := c.machines[id]; m.goneAt.IsZero() {
			all = append(all, Machine{m.id, m.req.Name, maps.Clone(m.tags), m.price, m.createdAt})
		}
	}
	return all
}

// Bill is what the account owes for machines with the server's tag, in US dollars.
func (c *Cloud) Bill(serverID string) float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settleDeletions()
	sum := 0.0
	for _, id := range slices.Sorted(maps.Keys(c.machines)) {
		m := c.machines[id]
		if m.tags[backend.TagServer] != serverID {
			continue
		}
		end := m.goneAt
		if end.IsZero() {
			end = time.Now()
		}
		sum += m.price * end.Sub(m.createdAt).Hours()
	}
	return sum
}

// Doubles lists the tokens for which more than one machine was ever made.
func (c *Cloud) Doubles() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	count := map[string]int{}
	for _, m := range c.machines {
		if m.req.Token != "" {
			count[m.req.Token]++
		}
	}
	var all []string
	for token, n := range count {
		if n > 1 {
			all = append(all, token)
		}
	}
	slices.Sort(all)
	return all
}

// Plant makes a machine behind the server's back, with any tags: a stranger's, say.
func (c *Cloud) Plant(region string, price float64, tags map[string]string) (id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.add(region, price, tags).id
}

// Kill ends a machine without being asked: a preempted spot instance.
func (c *Cloud) Kill(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.machines[id]; m != nil && m.goneAt.IsZero() {
		m.goneAt = time.Now()
	}
}

// Break makes a machine fail: it exists and costs money, but will never run.
func (c *Cloud) Break(id, message string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.machines[id]; m != nil {
		m.failed = message
	}
}

// Calls is how often an operation was called.
func (c *Cloud) Calls(op string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[op]
}

// SomeOffers are a few plausible offers in two regions, for tests that need some.
func SomeOffers() []offer.Offer {
	var all []offer.Offer
	for _, region := range []string{"north", "south"} {
		all = append(all,
			offer.Offer{Region: region, Instance: "cpu.small", Price: 0.10, Availability: offer.Available,
				Resources: offer.Resources{CPUs: 2, MemoryMiB: 8 << 10, DiskMiB: 100 << 10, Arch: "x86"}},
			offer.Offer{Region: region, Instance: "gpu.one", Price: 2.50, Availability: offer.Available,
				Resources: offer.Resources{CPUs: 16, MemoryMiB: 128 << 10, DiskMiB: 1000 << 10, Arch: "x86", GPUs: gpus("H100", 80<<10, 1)}},
			offer.Offer{Region: region, Instance: "gpu.one", Price: 1.00, Availability: offer.Available,
				Resources: offer.Resources{CPUs: 16, MemoryMiB: 128 << 10, DiskMiB: 1000 << 10, Arch: "x86", GPUs: gpus("H100", 80<<10, 1), Spot: true}},
			offer.Offer{Region: region, Instance: "gpu.eight", Price: 20.00, Availability: offer.Available,
				Resources: offer.Resources{CPUs: 128, MemoryMiB: 1024 << 10, DiskMiB: 4000 << 10, Arch: "x86", GPUs: gpus("H100", 80<<10, 8)}},
		)
	}
	return all
}

func gpus(name string, mib, n int) []offer.GPU {
	return slices.Repeat([]offer.GPU{{Name: name, MemoryMiB: mib, Vendor: "nvidia"}}, n)
}

// String names the cloud in test failures.
func (m Machine) String() string { return fmt.Sprintf("%s (%s, $%.2f/h)", m.ID, m.Name, m.Price) }
