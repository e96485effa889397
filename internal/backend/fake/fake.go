// Package fake is a cloud in memory: machines that boot and die, a bill, capacity, lists
// that lag, and faults of every kind, chosen ([Cloud.Inject]) or drawn from a seed
// ([Cloud.Misbehave]). It keeps the contract of package backend (backendtest runs against
// it) and works in virtual time.
//
// A simulation asks [Cloud.Live], [Cloud.At] and [Cloud.Invoice] what is true, compares it
// with what the server believes, and hears of every end through Config.Ended.
package fake

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"dstack/internal/backend"
	"dstack/internal/offer"
)

// Config describes a cloud. The zero value is a cloud without offers that does all at once.
type Config struct {
	Name   string // of the backend; "" is "fake"
	Offers []offer.Offer
	// Prices are what it sells instead of Offers, under its name, as providers that do not tell an
	// account what things cost; optional.
	Prices backend.Prices
	// Charges is what a machine of an offer really costs, in US dollars per hour, which the answers to
	// Create and Describe tell then; nil: what is offered, and they tell nothing.
	Charges  func(o offer.Offer) float64
	Boot     time.Duration // from Create to StateRunning
	Latency  time.Duration // of every call
	ListLag  time.Duration // how long List does not see what was created or deleted
	Deletion time.Duration // from Terminate to gone
	// Capacity bounds the machines of an instance type in a region, none when it is missing.
	Capacity map[offer.Key]int
	// Fabrics are the networks of instance types, "" when it is missing: those of one share a
	// placement group, those of [NoFabric] have none.
	Fabrics map[string]string
	// ID is the account's, what [backend.AccountBackend] tells; optional.
	ID string
	// ReservedApart says that instances in reservations join no placement groups.
	ReservedApart bool
	// Settle is what the backend reports; 0 means twice the ListLag and a minute.
	Settle time.Duration
	// Ended is called once for each machine that is gone, when it is, for whatever reason and
	// outside of all locks; optional. It must not block.
	Ended func(Machine)
}

// Cloud is one account of a fake provider. It is safe for concurrent use.
type Cloud struct {
	Config
	mu           sync.Mutex
	machines     map[string]*machine
	disks        map[string]*disk
	groups       map[string]*group
	reservations map[string][]offer.Reserved
	next         int
	faults       []*fault
	calls        map[string]int
	bad          *misbehaviour // nil: well-behaved
	injected     map[Kind]int
	redeliveries []redelivery
	ended        []Machine // not yet told to Config.Ended
}

// machine is one instance; it is kept after its end for the bill. Times are zero for never.
type machine struct {
	req         backend.CreateRequest
	tags        map[string]string
	id          string
	region      string
	address     string
	price       float64
	earlier     []Charge // at the prices before
	twin        bool     // made by a fault beside the one that was asked for
	failed      string
	createdAt   time.Time
	bootedAt    time.Time // may lie ahead
	dieAt       time.Time // it will be gone without notice
	interruptAt time.Time // the provider will delete it
	deleteAt    time.Time // deletion was asked for
	goneAt      time.Time
}

// New returns a cloud.
func New(c Config) *Cloud {
	if c.Name == "" {
		c.Name = "fake"
	}
	if c.Settle == 0 {
		c.Settle = 2*c.ListLag + time.Minute
	}
	return &Cloud{Config: c, machines: map[string]*machine{}, disks: map[string]*disk{}, groups: map[string]*group{}, reservations: map[string][]offer.Reserved{}, calls: map[string]int{}, injected: map[Kind]int{}}
}

// Offers implements [backend.Backend].
func (c *Cloud) Offers(ctx context.Context, q offer.Query) ([]offer.Offer, error) {
	var all []offer.Offer
	err := c.call(ctx, "Offers", "", func(fate) error {
		sold, err := c.sold(q)
		if err != nil {
			return err
		}
		for _, o := range sold {
			o.Backend = c.Name
			if limit, ok := c.Capacity[c.key(o)]; ok && c.used(c.key(o)) >= limit {
				o.Availability = offer.NotAvailable
			}
			all = append(all, o)
		}
		return nil
	}, nil)
	if err != nil {
		return nil, err
	}
	return all, nil
}

// sold is what the cloud has at all, whether there is capacity or not.
func (c *Cloud) sold(q offer.Query) ([]offer.Offer, error) {
	if c.Prices != nil {
		listed, err := c.Prices.Offers(c.Name, q)
		for i := range listed {
			listed[i].Availability = offer.Available // as far as a list can tell
		}
		return listed, err
	}
	var sold []offer.Offer
	for _, o := range c.Config.Offers {
		if q.Region(o.Region) && (q.Spot == nil || *q.Spot == o.Resources.Spot) {
			sold = append(sold, o)
		}
	}
	return sold, nil
}

func (c *Cloud) key(o offer.Offer) offer.Key {
	k := o.Key()
	k.Backend = c.Name
	return k
}

func (c *Cloud) used(k offer.Key) int {
	n := 0
	for _, m := range c.machines {
		if m.goneAt.IsZero() && c.key(m.req.Offer) == k {
			n++
		}
	}
	return n
}

// Create implements [backend.Backend].
func (c *Cloud) Create(ctx context.Context, req backend.CreateRequest) (backend.Instance, error) {
	var inst backend.Instance
	err := c.call(ctx, "Create", req.Token, func(f fate) error {
		if f.unmade {
			inst = c.view(c.machines[f.instead])
			return nil
		}
		m, err := c.create(req, f)
		if err != nil {
			return err
		}
		inst = c.view(c.named(m, f))
		return nil
	}, func() { _, _ = c.create(req, fate{}) }) // nobody reads that answer
	if err != nil {
		return backend.Instance{}, err
	}
	return inst, nil
}

// named is the machine that the answer about a new one names. It wants the mutex held.
func (c *Cloud) named(m *machine, f fate) *machine {
	if f.instead != "" {
		return c.machines[f.instead]
	}
	if c.bad == nil || c.bad.dice("name "+m.req.Token, 1).Float64() >= c.bad.Shares[Misnaming] {
		return m
	}
	for _, other := range c.sorted() {
		if other.req.Token == "" && other.tags[backend.TagServer] == "" && other.goneAt.IsZero() {
			c.count(Misnaming, true)
			return other
		}
	}
	return m
}

// create is the effect of Create. A token works for ever, also when its machine is gone.
func (c *Cloud) create(req backend.CreateRequest, f fate) (*machine, error) {
	for _, m := range c.sorted() {
		if req.Token != "" && m.req.Token == req.Token {
			return m, nil
		}
	}
	if err := c.check(req); err != nil {
		return nil, err
	}
	if err := c.enter(&req); err != nil {
		return nil, err
	}
	limit, bounded := c.Capacity[c.key(req.Offer)]
	c.count(NoCapacity, f.kinds[NoCapacity])
	if f.kinds[NoCapacity] || bounded && c.used(c.key(req.Offer)) >= limit {
		return nil, fmt.Errorf("%s in %s: %w", req.Offer.Instance, req.Offer.Region, backend.ErrNoCapacity)
	}
	made := func(twin bool) *machine {
		price := req.Offer.Price
		if c.Charges != nil {
			price = c.Charges(req.Offer)
		}
		m := c.add(req.Offer.Region, price, req.Tags)
		m.req, m.twin = req, twin
		c.plan(m)
		return m
	}
	m := made(false)
	if f.kinds[Twin] {
		c.count(Twin, true)
		made(true)
	}
	return m, nil
}

func (c *Cloud) check(req backend.CreateRequest) error {
	if req.Token == "" || req.Name == "" || req.Offer.Region == "" {
		return &backend.InvalidError{Path: "token", Msg: "token, name and region are required"}
	}
	if !c.hasRegion(req.Offer.Region) {
		return &backend.InvalidError{Path: "offer.region", Msg: fmt.Sprintf("there is no region %s", req.Offer.Region)}
	}
	return c.admit(req)
}

func (c *Cloud) hasRegion(name string) bool {
	sold, err := c.sold(offer.Query{Regions: []string{name}})
	return err == nil && len(sold) > 0
}

// add makes a machine that nothing happens to. Ids grow in the order of creation.
func (c *Cloud) add(region string, price float64, tags map[string]string) *machine {
	c.next++
	id, now := fmt.Sprintf("i-%06d", c.next), time.Now()
	m := &machine{
		id: id, region: region, address: id + ".fake.example", price: price, tags: maps.Clone(tags), createdAt: now, bootedAt: now.Add(c.Boot),
	}
	c.machines[id] = m
	return m
}

// alarm looks at the world at a time, so that Config.Ended is called then.
func (c *Cloud) alarm(at time.Time) {
	if c.Config.Ended == nil || at.IsZero() {
		return
	}
	time.AfterFunc(time.Until(at), c.look)
}

// look lets time take effect and tells what ended.
func (c *Cloud) look() {
	c.mu.Lock()
	c.pass()
	ended := c.ended
	c.ended = nil
	c.mu.Unlock()
	c.tell(ended)
}

func (c *Cloud) tell(ended []Machine) {
	if c.Config.Ended == nil {
		return
	}
	for _, m := range ended {
		c.Config.Ended(m)
	}
}

// existing finds a machine as the provider's calls do.
func (c *Cloud) existing(ref backend.Ref) (*machine, error) {
	m := c.machines[ref.ID]
	if m == nil || m.region != ref.Region || !m.goneAt.IsZero() {
		return nil, fmt.Errorf("instance %s: %w", ref.ID, backend.ErrNotFound)
	}
	return m, nil
}

// Describe implements [backend.Backend].
func (c *Cloud) Describe(ctx context.Context, ref backend.Ref) (backend.Instance, error) {
	var inst backend.Instance
	err := c.call(ctx, "Describe", ref.ID, func(fate) error {
		m, err := c.existing(ref)
		if err == nil {
			inst = c.view(m)
		}
		return err
	}, nil)
	if err != nil {
		return backend.Instance{}, err
	}
	return inst, nil
}

// Terminate implements [backend.Backend].
func (c *Cloud) Terminate(ctx context.Context, ref backend.Ref) error {
	return c.call(ctx, "Terminate", ref.ID,
		func(fate) error { return c.terminate(ref) },
		func() { _ = c.terminate(ref) }) // nobody reads that answer
}

func (c *Cloud) terminate(ref backend.Ref) error {
	m, err := c.existing(ref)
	if err == nil && m.deleteAt.IsZero() {
		m.deleteAt = time.Now()
		c.alarm(m.deleteAt.Add(c.Deletion))
	}
	return err
}

// List implements [backend.Backend].
func (c *Cloud) List(ctx context.Context, serverID string) ([]backend.Owned, error) {
	var all []backend.Owned
	err := c.call(ctx, "List", serverID, func(f fate) error {
		lag, young := c.ListLag, time.Duration(0)
		if f.kinds[StaleList] {
			c.count(StaleList, true)
			lag = max(lag, time.Duration(f.rnd.Int64N(int64(c.Config.Settle/2)+1)))
		}
		if f.kinds[PartialList] {
			c.count(PartialList, true)
			young = c.Config.Settle / 2
		}
		seen := time.Now().Add(-lag) // the list shows the state as of then
		for _, m := range c.sorted() {
			if serverID == "" || m.tags[backend.TagServer] != serverID || m.createdAt.After(seen) || !m.goneAt.IsZero() && !m.goneAt.After(seen) {
				continue
			}
			if time.Since(m.createdAt) < young && f.rnd.IntN(2) == 0 {
				continue
			}
			state := c.view(m).State
			if state == backend.StateGone {
				state = backend.StateRunning // the list is stale
			}
			all = append(all, backend.Owned{
				Mark: markOf(m.tags, m.req.Name), Kind: backend.InstanceResource, Ref: backend.Ref{Region: m.region, ID: m.id},
				State: state, CreatedAt: m.createdAt, Price: m.price,
			})
		}
		if serverID != "" {
			all = append(all, c.listDisks(serverID, seen)...)
			all = append(all, c.listGroups(serverID, seen)...)
		}
		return nil
	}, nil)
	if err != nil {
		return nil, err
	}
	return all, nil
}

// Settle implements [backend.SettleBackend].
func (c *Cloud) Settle() time.Duration { return c.Config.Settle }

// Account implements [backend.AccountBackend].
func (c *Cloud) Account() string { return c.Config.ID }

// Privileged implements [backend.PrivilegedBackend].
func (c *Cloud) Privileged() {}

// Multinode implements [backend.MultinodeBackend].
func (c *Cloud) Multinode() {}

// sorted lists the machines in the order of their creation.
func (c *Cloud) sorted() []*machine {
	return slices.SortedFunc(maps.Values(c.machines), func(a, b *machine) int { return strings.Compare(a.id, b.id) })
}

// pass lets time take effect: requests arrive again, machines are interrupted, die and are
// deleted. It wants the mutex held.
func (c *Cloud) pass() {
	now := time.Now()
	due := func(at time.Time) bool { return !at.IsZero() && !now.Before(at) }
	c.redeliveries = slices.DeleteFunc(c.redeliveries, func(r redelivery) bool {
		if due(r.at) {
			r.run()
			return true
		}
		return false
	})
	for _, m := range c.machines {
		if !m.goneAt.IsZero() {
			continue
		}
		if due(m.interruptAt) && (m.deleteAt.IsZero() || m.interruptAt.Before(m.deleteAt)) {
			c.count(Interruption, true)
			m.deleteAt, m.interruptAt = m.interruptAt, time.Time{}
		}
		deleted := m.deleteAt
		if !deleted.IsZero() {
			deleted = deleted.Add(c.Deletion)
		}
		switch {
		case due(m.dieAt) && (deleted.IsZero() || m.dieAt.Before(deleted)):
			c.count(SuddenDeath, true)
			c.end(m, m.dieAt)
		case due(deleted):
			c.end(m, deleted)
		}
	}
}

// end ends a machine. It wants the mutex held.
func (c *Cloud) end(m *machine, at time.Time) {
	m.goneAt = at
	c.ended = append(c.ended, m.outside())
}

func (c *Cloud) view(m *machine) backend.Instance {
	inst := backend.Instance{
		Mark: markOf(m.tags, m.req.Name), Ref: backend.Ref{Region: m.region, ID: m.id}, State: backend.StatePending, Username: "ubuntu",
		CreatedAt: m.createdAt, GoneAt: m.goneAt, Zone: m.req.Zone,
	}
	if c.Charges != nil {
		inst.Price = m.price
	}
	switch {
	case !m.goneAt.IsZero():
		inst.State = backend.StateGone
	case !m.deleteAt.IsZero():
		inst.State = backend.StateDeleting
	case m.failed != "":
		inst.State, inst.Message = backend.StateFailed, m.failed
	case !time.Now().Before(m.bootedAt):
		inst.State = backend.StateRunning
		inst.Hostname, inst.InternalIP = m.address, internalIP(m.id)
	}
	return inst
}

func markOf(tags map[string]string, name string) backend.Mark {
	return backend.Mark{IntentID: tags[backend.TagIntent], Name: name}
}

// internalIP makes an address of an id, one each for the first 65,536.
func internalIP(id string) string {
	var n int
	_, _ = fmt.Sscanf(id, "i-%d", &n) // ids have this form
	return fmt.Sprintf("10.0.%d.%d", n>>8&255, n&255)
}
