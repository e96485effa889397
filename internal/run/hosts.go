package run

import (
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"
	"unique"

	"dstack/internal/api"
	"dstack/internal/instance"
	"dstack/internal/offer"
	"dstack/internal/scheduler"
)

// hostCache remembers instances in the scheduler's words, by fleet: they are made anew only
// for rows that have changed, and nothing is looked at where no row has.
type hostCache struct {
	making sync.Mutex // held while something is made: by one of the callers, for all of them
	mu     sync.Mutex
	fleets map[string]fleetHosts
	stocks map[string]stock // by project
}

// fleetHosts are the hosts of a fleet.
type fleetHosts struct {
	of   []*instance.Instance // by number
	made []*scheduler.Host    // of each, nil for those that jobs can never see
	list []*scheduler.Host    // the others
	live int                  // instances that count for the fleet's size
	up   []*scheduler.Host    // those that boot and have no job any more, as they will be
	at   *api.InstanceOffer   // of the first of them that has one: where a cluster is; nil for none
	// given are when the machines were there that exist, by what they were asked for as.
	given map[offer.Key][]time.Time
}

// maxFleetHosts bounds the fleets that are remembered, maxStocks the projects.
const (
	maxFleetHosts = 2_000
	maxStocks     = 32
)

// stock are the hosts of the fleets that a project uses, in one list.
type stock struct {
	of    [][]*scheduler.Host // by fleet
	hosts []*scheduler.Host
	found *scheduler.Stock
}

// stock returns the hosts of a project's fleets in their order: the same ones for as long as those of each
// fleet are the same.
func (c *hostCache) stock(projectID string, fleets [][]*scheduler.Host) stock {
	c.mu.Lock()
	known, there := c.stocks[projectID]
	c.mu.Unlock()
	if there && slices.EqualFunc(known.of, fleets, sameList[*scheduler.Host]) {
		return known
	}
	now := stock{of: fleets, hosts: slices.Concat(fleets...)}
	now.found = scheduler.NewStock(now.hosts)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !there && len(c.stocks) >= maxStocks {
		for other := range c.stocks { // any
			delete(c.stocks, other)
			break
		}
	}
	if c.stocks == nil {
		c.stocks = map[string]stock{}
	}
	c.stocks[projectID] = now
	return now
}

// of returns the hosts of a fleet with these instances, see [instance.Service.InFleets].
func (c *hostCache) of(fleetID string, list []*instance.Instance) fleetHosts {
	if old := c.known(fleetID); sameList(old.of, list) {
		return old
	}
	c.making.Lock()
	defer c.making.Unlock()
	old := c.known(fleetID)
	if sameList(old.of, list) {
		return old
	}
	now := fleetHosts{of: list, made: make([]*scheduler.Host, len(list)), list: make([]*scheduler.Host, 0, len(list)), given: map[offer.Key][]time.Time{}}
	was := 0 // in the old list
	var kinds []*scheduler.Host
	for n, inst := range list {
		for was < len(old.of) && old.of[was].Num < inst.Num {
			was++
		}
		var h *scheduler.Host
		if was < len(old.of) && old.of[was] == inst {
			h = old.made[was]
		} else {
			h = host(inst, kinds)
		}
		if now.made[n] = h; h != nil {
			now.list = append(now.list, h)
			if len(kinds) < maxKinds && !slices.ContainsFunc(kinds, func(k *scheduler.Host) bool { return k.Key == h.Key }) {
				kinds = append(kinds, h)
			}
		}
		if jobless(inst) {
			if h := whenUp(inst); h != nil {
				now.up = append(now.up, h)
			}
		}
		if inst.Live() {
			now.live++
			if now.at == nil {
				now.at = inst.Data.Offer
			}
			if o, at := inst.Data.Offer, inst.Data.StartedAt; o != nil && !at.IsZero() && !inst.SSH() {
				now.given[scheduler.KeyOf(o)] = append(now.given[scheduler.KeyOf(o)], at)
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fleets == nil {
		c.fleets = map[string]fleetHosts{}
	}
	if _, there := c.fleets[fleetID]; !there && len(c.fleets) >= maxFleetHosts {
		for other := range c.fleets { // any
			delete(c.fleets, other)
			break
		}
	}
	c.fleets[fleetID] = now
	return now
}

func (c *hostCache) known(fleetID string) fleetHosts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fleets[fleetID]
}

// given is how many machines of an offer exist that fleets were given after a time.
func (c *hostCache) given(fleets []scheduler.Fleet, k offer.Key, after time.Time) (n int) {
	for _, f := range fleets {
		for _, at := range c.known(f.ID).given[k] {
			if at.After(after) {
				n++
			}
		}
	}
	return n
}

// sameList says that two lists are one and the same.
func sameList[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// maxKinds bounds the kinds of hosts that those of a fleet are compared with.
const maxKinds = 16

// host puts an instance in the scheduler's words, nil when jobs can never see it. Others of which one
// may be like it save the work for what is the same of both.
func host(inst *instance.Instance, others []*scheduler.Host) *scheduler.Host {
	jpd := inst.Data.Provisioning
	if !inst.Live() || inst.Blocks == 0 || jpd == nil || inst.Status == api.InstanceProvisioning && jpd.Hostname == nil {
		return nil
	}
	h := &scheduler.Host{
		ID: inst.ID, Fleet: inst.FleetID, Name: inst.Name, Num: inst.Num, Blocks: inst.Blocks, Busy: inst.Busy(), Ready: inst.Available(), Out: !inst.Well(),
	}
	if jpd.AvailabilityZone != nil {
		h.Zone = *jpd.AvailabilityZone
	}
	if n := slices.IndexFunc(others, func(o *scheduler.Host) bool {
		return o.Blocks == h.Blocks && o.Zone == h.Zone && sameOffer(&o.Offer, jpd)
	}); n >= 0 {
		h.Offer, h.Key = others[n].Offer, others[n].Key
	} else {
		h.Offer = api.InstanceOffer{
			Backend: jpd.Backend, Instance: jpd.InstanceType, Region: jpd.Region, Price: jpd.Price, BackendData: map[string]any{},
			Availability: api.Idle, InstanceRuntime: api.RuntimeShim, TotalBlocks: inst.Blocks,
		}
		h.Key = alike(h)
	}
	h.Hostnames = make([]string, 0, 3)
	for _, name := range []*string{jpd.Hostname, jpd.InternalIP} {
		if name != nil {
			h.Hostnames = append(h.Hostnames, *name)
		}
	}
	if inst.SSHHost != "" {
		name, _, _ := strings.Cut(inst.SSHHost, ":")
		h.Hostnames = append(h.Hostnames, name)
	}
	return h
}

// jobless says that an instance boots for its fleet, or without the job that it was made for, which is over, and may be
// idle: it is kept for as long as a run waits that could use it.
func jobless(inst *instance.Instance) bool {
	return inst.Status == api.InstanceProvisioning && len(inst.Assignments) == 0 && (inst.Data.ForJob == "" || inst.Data.IdleSeconds != 0) && inst.Data.Damage == ""
}

// whenUp is an instance that boots as the host that it will be, nil while too little is known of it. How many blocks
// it has may be known only then.
func whenUp(inst *instance.Instance) *scheduler.Host {
	free := *inst
	free.Status, free.Blocks = api.InstanceIdle, max(1, inst.Blocks)
	h := host(&free, nil)
	if h != nil {
		h.UpBy = inst.Data.StartedAt.Add(instance.BootTimeout(*inst))
	}
	return h
}

// sameOffer says that an instance with this data has the offer of a host with as many blocks.
func sameOffer(o *api.InstanceOffer, jpd *api.JobProvisioningData) bool {
	x, y := &o.Instance.Resources, &jpd.InstanceType.Resources
	return o.Backend == jpd.Backend && o.Region == jpd.Region && o.Price == jpd.Price && o.Instance.Name == jpd.InstanceType.Name &&
		x.CPUs == y.CPUs && x.MemoryMiB == y.MemoryMiB && x.Spot == y.Spot && x.Disk == y.Disk && x.Description == y.Description &&
		(x.CPUArch == y.CPUArch || x.CPUArch != nil && y.CPUArch != nil && *x.CPUArch == *y.CPUArch) &&
		(x.Gpus == nil) == (y.Gpus == nil) && slices.Equal(x.Gpus, y.Gpus)
}

// alike is equal for hosts that could give the same, see [scheduler.Host].
func alike(h *scheduler.Host) unique.Handle[string] {
	text, err := json.Marshal([]any{h.Offer, h.Blocks, h.Zone})
	if err != nil { // a price that is no number: like no other
		return unique.Handle[string]{}
	}
	return unique.Make(string(text))
}
