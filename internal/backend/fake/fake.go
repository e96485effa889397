// Package fake is a cloud in memory: machines that boot and die, a bill, capacity, lists
// that lag, and faults before or after the effect of a call. It keeps the contract of
// package backend (backendtest runs against it) and works in virtual time.
package fake

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"dstack/internal/backend"
	"dstack/internal/offer"
)

// Config describes a cloud. The zero value is a cloud without offers that does all at once.
type Config struct {
	Name     string // of the backend; "" is "fake"
	Offers   []offer.Offer
	Boot     time.Duration // from Create to StateRunning
	Latency  time.Duration // of every call
	ListLag  time.Duration // how long List does not see what was created or deleted
	Deletion time.Duration // from Terminate to gone
	// Capacity bounds the machines of an instance type in a region, none when it is missing.
	Capacity map[offer.Key]int
	// Settle is what the backend reports; 0 means twice the ListLag and a minute.
	Settle time.Duration
}

// Errors that say nothing about the outcome.
var (
	ErrReset   = errors.New("connection reset by peer")
	ErrTimeout = errors.New("gateway timeout")
)

// Fault makes calls fail.
type Fault struct {
	Op     string // "Create", "Describe", "Terminate", "List", "Offers"; "" is any
	Nth    int    // which call of those that match, from 1; 0 is every one
	Before error  // returned instead of doing anything
	After  error  // returned although it was done
	// Crash is called after the effect, with nothing returned until ctx ends: the test kills
	// the server there.
	Crash func()
}

// Cloud is one account of a fake provider. It is safe for concurrent use.
type Cloud struct {
	Config
	mu       sync.Mutex
	machines map[string]*machine
	next     int
	faults   []*fault
	calls    map[string]int
	chaos    *chaos
}

type fault struct {
	Fault
	seen int
}

type chaos struct {
	rnd  *rand.Rand
	rate float64
}

// machine is one instance; it is kept after its end for the bill.
type machine struct {
	req       backend.CreateRequest
	tags      map[string]string
	id        string
	region    string
	price     float64
	createdAt time.Time
	deleteAt  time.Time // Terminate was called, zero before
	goneAt    time.Time
	failed    string
}

// New returns a cloud.
func New(c Config) *Cloud {
	if c.Name == "" {
		c.Name = "fake"
	}
	if c.Settle == 0 {
		c.Settle = 2*c.ListLag + time.Minute
	}
	return &Cloud{Config: c, machines: map[string]*machine{}, calls: map[string]int{}}
}

// Inject adds a fault. A fault with Nth is used up by its call.
func (c *Cloud) Inject(f Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, &fault{Fault: f})
}

// Heal removes all faults.
func (c *Cloud) Heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults, c.chaos = nil, nil
}

// Chaos makes a share of all calls fail, half of them after their effect.
func (c *Cloud) Chaos(seed uint64, rate float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.chaos = &chaos{rnd: rand.New(rand.NewPCG(seed, 7)), rate: rate}
}

// call runs the effect of one call between the faults that are due.
func (c *Cloud) call(ctx context.Context, op string, effect func() error) error {
	if c.Latency > 0 {
		select {
		case <-time.After(c.Latency):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	crash, before, after := c.due(op)
	if before == nil {
		if err := effect(); err != nil {
			c.mu.Unlock()
			return err
		}
	}
	c.mu.Unlock()
	if crash != nil {
		crash()
		<-ctx.Done()
		return context.Cause(ctx)
	}
	if before != nil {
		return before
	}
	return after
}

// due wants the mutex held.
func (c *Cloud) due(op string) (crash func(), before, after error) {
	c.calls[op]++
	for i, f := range c.faults {
		if f.Op != "" && f.Op != op {
			continue
		}
		f.seen++
		if f.Nth != 0 && f.Nth != f.seen {
			continue
		}
		if f.Nth != 0 {
			c.faults = slices.Delete(c.faults, i, i+1)
		}
		return f.Crash, f.Before, f.After
	}
	if c.chaos == nil || c.chaos.rnd.Float64() >= c.chaos.rate {
		return nil, nil, nil
	}
	switch c.chaos.rnd.IntN(6) {
	case 0:
		return nil, ErrTimeout, nil
	case 1:
		return nil, &backend.RateLimitedError{After: time.Duration(c.chaos.rnd.IntN(5)) * time.Second}, nil
	case 2:
		return nil, ErrReset, nil
	case 3:
		return nil, nil, ErrTimeout
	default:
		return nil, nil, ErrReset
	}
}

// Offers implements [backend.Backend].
func (c *Cloud) Offers(ctx context.Context, q offer.Query) ([]offer.Offer, error) {
	var all []offer.Offer
	err := c.call(ctx, "Offers", func() error {
		for _, o := range c.Config.Offers {
			if !q.Region(o.Region) || q.Spot != nil && *q.Spot != o.Resources.Spot {
				continue
			}
			o.Backend = c.Name
			if limit, ok := c.Capacity[c.key(o)]; ok && c.used(c.key(o)) >= limit {
				o.Availability = offer.NotAvailable
			}
			all = append(all, o)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
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
	err := c.call(ctx, "Create", func() error {
		c.settleDeletions()
		for _, m := range c.machines {
			if m.req.Token == req.Token {
				inst = c.view(m)
				return nil
			}
		}
		if req.Token == "" || req.Name == "" || req.Offer.Region == "" {
			return &backend.InvalidError{Path: "token", Msg: "token, name and region are required"}
		}
		if limit, ok := c.Capacity[c.key(req.Offer)]; ok && c.used(c.key(req.Offer)) >= limit {
			return fmt.Errorf("%s in %s: %w", req.Offer.Instance, req.Offer.Region, backend.ErrNoCapacity)
		}
		m := c.add(req.Offer.Region, req.Offer.Price, req.Tags)
		m.req = req
		inst = c.view(m)
		return nil
	})
	if err != nil {
		return backend.Instance{}, err
	}
	return inst, nil
}

func (c *Cloud) add(region string, price float64, tags map[string]string) *machine {
	c.next++
	m := &machine{id: fmt.Sprintf("i-%06d", c.next), region: region, price: price, tags: maps.Clone(tags), createdAt: time.Now()}
	c.machines[m.id] = m
	return m
}

// Describe implements [backend.Backend].
func (c *Cloud) Describe(ctx context.Context, ref backend.Ref) (backend.Instance, error) {
	var inst backend.Instance
	err := c.call(ctx, "Describe", func() error {
		c.settleDeletions()
		m := c.machines[ref.ID]
		if m == nil || m.region != ref.Region || !m.goneAt.IsZero() {
			return fmt.Errorf("instance %s: %w", ref.ID, backend.ErrNotFound)
		}
		inst = c.view(m)
		return nil
	})
	if err != nil {
		return backend.Instance{}, err
	}
	return inst, nil
}

// Terminate implements [backend.Backend].
func (c *Cloud) Terminate(ctx context.Context, ref backend.Ref) error {
	return c.call(ctx, "Terminate", func() error {
		c.settleDeletions()
		m := c.machines[ref.ID]
		if m == nil || m.region != ref.Region || !m.goneAt.IsZero() {
			return fmt.Errorf("instance %s: %w", ref.ID, backend.ErrNotFound)
		}
		if m.deleteAt.IsZero() {
			m.deleteAt = time.Now()
		}
		c.settleDeletions()
		return nil
	})
}

// List implements [backend.Backend].
func (c *Cloud) List(ctx context.Context, serverID string) ([]backend.Owned, error) {
	var all []backend.Owned
	err := c.call(ctx, "List", func() error {
		c.settleDeletions()
		seen := time.Now().Add(-c.ListLag) // the list shows the state as of then
		for _, id := range slices.Sorted(maps.Keys(c.machines)) {
			m := c.machines[id]
			if m.tags[backend.TagServer] != serverID || m.createdAt.After(seen) || !m.goneAt.IsZero() && !m.goneAt.After(seen) {
				continue
			}
			state := c.view(m).State
			if state == backend.StateGone {
				state = backend.StateRunning // the list is stale
			}
			all = append(all, backend.Owned{
				Kind: backend.InstanceResource, Ref: backend.Ref{Region: m.region, ID: m.id}, IntentID: m.tags[backend.TagIntent],
				Name: m.req.Name, State: state, CreatedAt: m.createdAt, Price: m.price,
			})
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// Settle implements [backend.SettleBackend].
func (c *Cloud) Settle() time.Duration { return c.Config.Settle }

// Privileged implements [backend.PrivilegedBackend].
func (c *Cloud) Privileged() {}

// Multinode implements [backend.MultinodeBackend].
func (c *Cloud) Multinode() {}

// settleDeletions ends the machines whose deletion took long enough.
func (c *Cloud) settleDeletions() {
	for _, m := range c.machines {
		if end := m.deleteAt.Add(c.Deletion); m.goneAt.IsZero() && !m.deleteAt.IsZero() && !time.Now().Before(end) {
			m.goneAt = end
		}
	}
}

func (c *Cloud) view(m *machine) backend.Instance {
	inst := backend.Instance{
		Ref: backend.Ref{Region: m.region, ID: m.id}, State: backend.StatePending, Username: "ubuntu",
		CreatedAt: m.createdAt, GoneAt: m.goneAt, Zone: m.req.Zone,
	}
	switch {
	case !m.goneAt.IsZero():
		inst.State = backend.StateGone
	case !m.deleteAt.IsZero():
		inst.State = backend.StateDeleting
	case m.failed != "":
		inst.State, inst.Message = backend.StateFailed, m.failed
	case !time.Now().Before(m.createdAt.Add(c.Boot)):
		inst.State = backend.StateRunning
		inst.Hostname, inst.InternalIP = m.id+".fake.example", "10.0.0."+m.id[len(m.id)-1:]
	}
	return inst
}
