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

// Machine is one machine, as the world sees it.
type Machine struct {
	ID, Name string
	Address  string // the host name that Describe tells
	Tags     map[string]string
	What     offer.Key
	Price    float64 // US dollars per hour
	First    float64 // what it cost when it was made
	Since    time.Time
	Gone     time.Time // zero while it costs money
	// Reservation and Zone are where it was created, "" for none.
	Reservation, Zone string
	GPUs              int
}

func (m *machine) outside() Machine {
	first := m.price
	if len(m.earlier) > 0 {
		first = m.earlier[0].Price
	}
	return Machine{m.id, m.req.Name, m.address, maps.Clone(m.tags), m.req.Offer.Key(), m.price, first, m.createdAt, m.goneAt, m.req.Reservation, m.req.Zone,
		len(m.req.Offer.Resources.GPUs)}
}

// Live lists the machines that cost money now, in the order of their creation.
func (c *Cloud) Live() []Machine {
	c.look()
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []Machine
	for _, m := range c.sorted() {
		if m.goneAt.IsZero() {
			all = append(all, m.outside())
		}
	}
	return all
}

// At is the machine that runs at an address now: whom a connection reaches.
func (c *Cloud) At(address string) (Machine, bool) {
	c.look()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.sorted() {
		if m.address == address && m.goneAt.IsZero() && m.failed == "" && !time.Now().Before(m.bootedAt) {
			return m.outside(), true
		}
	}
	return Machine{}, false
}

// Charge is what one machine costs at one price.
type Charge struct {
	ID       string
	Intent   string    // value of [backend.TagIntent]
	Price    float64   // US dollars per hour
	From, To time.Time // To is now while it lives
	Live     bool
}

// USD is the charge in US dollars.
func (h Charge) USD() float64 { return h.Price * h.To.Sub(h.From).Hours() }

// Invoice lists what the account owes for machines with the server's tag, to compare the
// ledger's intervals with. A broken or unknown machine costs like any other.
func (c *Cloud) Invoice(serverID string) []Charge {
	c.look()
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []Charge
	for _, m := range c.sorted() {
		if m.tags[backend.TagServer] != serverID {
			continue
		}
		all = append(all, m.earlier...)
		h := m.charge()
		if h.Live {
			h.To = time.Now()
		}
		all = append(all, h)
	}
	return all
}

// charge is for what the machine costs at its present price.
func (m *machine) charge() Charge {
	h := Charge{m.id, m.tags[backend.TagIntent], m.price, m.createdAt, m.goneAt, m.goneAt.IsZero()}
	if n := len(m.earlier); n > 0 {
		h.From = m.earlier[n-1].To
	}
	return h
}

// Bill is the sum of the invoice in US dollars.
func (c *Cloud) Bill(serverID string) float64 {
	sum := 0.0
	for _, h := range c.Invoice(serverID) {
		sum += h.USD()
	}
	return sum
}

// Doubles lists the tokens for which more than one machine or group was ever made, twins of our
// own making aside.
func (c *Cloud) Doubles() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	count := map[string]int{}
	for _, m := range c.machines {
		if m.req.Token != "" && !m.twin {
			count[m.req.Token]++
		}
	}
	for _, g := range c.groups {
		if g.req.Token != "" && !g.twin {
			count[g.req.Token]++
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

// Kill ends a machine without being asked.
func (c *Cloud) Kill(id string) {
	c.mu.Lock()
	if m := c.machines[id]; m != nil && m.goneAt.IsZero() {
		c.end(m, time.Now())
	}
	c.mu.Unlock()
	c.look()
}

// Move gives a machine another address, which Describe tells.
func (c *Cloud) Move(id, address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.machines[id]; m != nil {
		m.address = address
	}
}

// Reprice has a machine cost something else from now on.
func (c *Cloud) Reprice(id string, price float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.machines[id]; m != nil && m.goneAt.IsZero() {
		h := m.charge()
		h.To, h.Live = time.Now(), false
		m.earlier, m.price = append(m.earlier, h), price
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
