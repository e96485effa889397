package fake

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"dstack/internal/backend"
)

// Errors that say nothing about the outcome.
var (
	ErrReset   = errors.New("connection reset by peer")
	ErrTimeout = errors.New("gateway timeout")
)

// Fault makes chosen calls fail.
type Fault struct {
	Op     string // the name of a method, "Create"; "" is any
	Nth    int    // which call of those that match, from 1; 0 is every one
	Before error  // returned instead of doing anything
	After  error  // returned although it was done
	// Instead is the machine that a Create names instead of the one that it makes, or with Unmade
	// does not make.
	Instead string
	Unmade  bool
	// Crash is called after the effect, with nothing returned until ctx ends: the test kills
	// the server there.
	Crash func()
}

// Kind is a way to misbehave.
type Kind string

// The kinds. Those up to NoCapacity happen to calls, the others to machines.
const (
	ErrorBefore Kind = "error before effect" // the call fails and did nothing
	ErrorAfter  Kind = "error after effect"  // the call fails and was done
	HangBefore  Kind = "hang before effect"  // no answer until the caller gives up; nothing was done
	HangAfter   Kind = "hang after effect"   // no answer until the caller gives up; it was done
	Throttle    Kind = "throttle"            // refused for some seconds
	Redelivery  Kind = "redelivery"          // Create or Terminate, of machines and groups, arrives once more, or after all, within half the settle time
	Twin        Kind = "twin"                // Create makes two machines or groups, as if there were no tokens
	StaleList   Kind = "stale list"          // List shows what was up to half the settle time ago
	PartialList Kind = "partial list"        // List lacks machines made within half the settle time
	NoCapacity  Kind = "no capacity"         // Create is refused: of a gang, some are and some are not

	SlowBoot     Kind = "slow boot"         // booting takes up to ten times as long
	BrokenBoot   Kind = "broken boot"       // it never runs, and costs until it is terminated
	SuddenDeath  Kind = "sudden death"      // it is gone without notice, within the Mix's Life
	Interruption Kind = "spot interruption" // of a spot machine: deleted by the provider, within Life
	AddressReuse Kind = "address reuse"     // it gets the address of one that is gone
	Misnaming    Kind = "misnaming"         // the answer to its Create names a stranger's machine, if there is one
)

// Mix says how often what goes wrong: shares from 0 to 1 of the calls or machines that it
// can happen to.
type Mix struct {
	Shares map[Kind]float64
	Life   time.Duration // by when machines that die have died; 0 means an hour
}

// EveryKind is a mix of everything, each with the same share.
func EveryKind(share float64) Mix {
	m := Mix{Shares: map[Kind]float64{}}
	for _, k := range []Kind{ErrorBefore, ErrorAfter, HangBefore, HangAfter, Throttle, Redelivery, Twin, StaleList, PartialList, NoCapacity,
		SlowBoot, BrokenBoot, SuddenDeath, Interruption, AddressReuse, Misnaming} {
		m.Shares[k] = share
	}
	return m
}

// fault is a Fault with its count of calls.
type fault struct {
	Fault
	seen int
}

// misbehaviour is a mix with a seed. What happens to a call depends on the seed, the
// operation, what it is about and how often that was asked, and what happens to a machine
// on the seed and its token: never on the order in which goroutines come. Only whose address
// is reused depends on who ended before.
type misbehaviour struct {
	Mix
	seed  uint64
	asked map[string]uint64
}

// Inject adds a fault. A fault with Nth is used up by its call.
func (c *Cloud) Inject(f Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, &fault{Fault: f})
}

// Misbehave makes calls and the machines that are made from now on go wrong as often as m
// says, the same for each run with the seed.
func (c *Cloud) Misbehave(seed uint64, m Mix) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.Life == 0 {
		m.Life = time.Hour
	}
	m.Shares = maps.Clone(m.Shares)
	c.bad = &misbehaviour{Mix: m, seed: seed, asked: map[string]uint64{}}
}

// Heal ends all faults. What they did to machines stays; those that were to die still die.
func (c *Cloud) Heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults, c.bad, c.redeliveries = nil, nil, nil
}

// Injected is how often each kind of misbehaviour took place.
func (c *Cloud) Injected() map[Kind]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pass()
	return maps.Clone(c.injected)
}

// fate is what will happen to one call.
type fate struct {
	crash         func()
	before, after error
	instead       string // the machine that Create names, "" for its own
	unmade        bool
	hang          Kind // HangBefore, HangAfter or ""
	rnd           *rand.Rand
	kinds         map[Kind]bool // those that the call's effect has to heed
}

// fateOf decides about a call of op about subject. It wants the mutex held.
func (c *Cloud) fateOf(op, subject string) fate {
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
		return fate{crash: f.Crash, before: f.Before, after: f.After, instead: f.Instead, unmade: f.Unmade}
	}
	if c.bad == nil {
		return fate{}
	}
	return c.bad.fateOf(op, subject)
}

func (b *misbehaviour) fateOf(op, subject string) fate {
	key := op + " " + subject
	b.asked[key]++
	f := fate{rnd: b.dice(key, b.asked[key]), kinds: map[Kind]bool{}}
	// Each kind has its throw whatever the others did, so that shares do not depend on each
	// other; of those that exclude each other the first wins.
	hit := map[Kind]bool{}
	for _, k := range []Kind{Throttle, ErrorBefore, HangBefore, ErrorAfter, HangAfter, NoCapacity, Twin, Redelivery, StaleList, PartialList} {
		hit[k] = f.rnd.Float64() < b.Shares[k]
	}
	failure := []error{ErrReset, ErrTimeout}[f.rnd.IntN(2)]
	switch {
	case hit[Throttle]:
		hit[Redelivery] = false // a refusal is one
		f.before = &backend.RateLimitedError{After: time.Duration(f.rnd.IntN(10)) * time.Second}
		f.kinds[Throttle] = true
	case hit[ErrorBefore]:
		f.before = failure
		f.kinds[ErrorBefore] = true
	case hit[HangBefore]:
		f.hang = HangBefore
	case hit[ErrorAfter]:
		f.after = failure
		f.kinds[ErrorAfter] = true
	case hit[HangAfter]:
		f.hang = HangAfter
	}
	switch op {
	case "Create", "CreatePlacement":
		f.kinds[NoCapacity], f.kinds[Twin], f.kinds[Redelivery] = hit[NoCapacity], hit[Twin], hit[Redelivery]
	case "Terminate", "DeletePlacement":
		f.kinds[Redelivery] = hit[Redelivery]
	case "List":
		f.kinds[StaleList], f.kinds[PartialList] = hit[StaleList], hit[PartialList]
	}
	return f
}

// dice are random numbers that depend on the seed and a name alone.
func (b *misbehaviour) dice(name string, nth uint64) *rand.Rand {
	h := fnv.New64a()
	_, _ = h.Write(binary.LittleEndian.AppendUint64([]byte(name), nth)) // a hash takes everything
	return rand.New(rand.NewPCG(b.seed, h.Sum64()))
}

// call runs the effect of one call between the faults that are due. again, if not nil, is
// the same request when it arrives by itself. Both are called with the mutex held.
func (c *Cloud) call(ctx context.Context, op, subject string, effect func(f fate) error, again func()) error {
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
	c.pass()
	f := c.fateOf(op, subject)
	var err error
	if f.before == nil && f.hang != HangBefore {
		err = effect(f)
		c.pass()
	}
	if f.kinds[Redelivery] && err == nil && again != nil {
		c.count(Redelivery, true)
		delay := time.Duration(1 + f.rnd.Int64N(int64(c.Config.Settle/2)))
		c.redeliveries = append(c.redeliveries, redelivery{time.Now().Add(delay), again})
	}
	for _, k := range []Kind{Throttle, ErrorBefore, ErrorAfter} {
		c.count(k, f.kinds[k])
	}
	c.count(f.hang, f.hang != "")
	ended := c.ended
	c.ended = nil
	c.mu.Unlock()
	c.tell(ended)
	switch {
	case f.crash != nil:
		f.crash()
		<-ctx.Done()
		return context.Cause(ctx)
	case f.hang != "":
		<-ctx.Done()
		return context.Cause(ctx)
	case f.before != nil:
		return f.before
	case err != nil:
		return err
	}
	return f.after
}

// count notes that a kind took place. It wants the mutex held.
func (c *Cloud) count(k Kind, happened bool) {
	if happened {
		c.injected[k]++
	}
}

// redelivery is a request that is still under way.
type redelivery struct {
	at  time.Time
	run func()
}

// plan decides what will happen to a new machine. It wants the mutex held.
func (c *Cloud) plan(m *machine) {
	if c.bad == nil {
		return
	}
	rnd := c.bad.dice("machine "+m.req.Token, twinNumber(m))
	hit := func(k Kind) bool { return rnd.Float64() < c.bad.Shares[k] }
	within := func(d time.Duration) time.Duration { return time.Duration(rnd.Int64N(int64(d) + 1)) }
	if hit(SlowBoot) {
		c.count(SlowBoot, true)
		m.bootedAt = m.createdAt.Add(c.Boot + within(9*c.Boot))
	}
	if hit(BrokenBoot) {
		c.count(BrokenBoot, true)
		m.failed = "the machine does not boot"
	}
	death := within(c.bad.Life)
	switch interrupted := hit(Interruption); {
	case hit(SuddenDeath):
		m.dieAt = m.createdAt.Add(death)
	case interrupted && m.req.Offer.Resources.Spot:
		m.interruptAt = m.createdAt.Add(death)
	}
	if hit(AddressReuse) {
		if a := c.freeAddress(m.region); a != "" {
			c.count(AddressReuse, true)
			m.address = a
		}
	}
	c.alarm(m.dieAt)
	c.alarm(m.interruptAt)
	if !m.interruptAt.IsZero() {
		c.alarm(m.interruptAt.Add(c.Deletion))
	}
}

// twinNumber tells apart the machines of one token.
func twinNumber(m *machine) uint64 {
	if m.twin {
		return 1
	}
	return 0
}

// freeAddress is the address of the machine that ended last in a region, if no other has it.
func (c *Cloud) freeAddress(region string) string {
	var last *machine
	taken := map[string]bool{}
	for _, m := range c.sorted() {
		switch {
		case m.goneAt.IsZero():
			taken[m.address] = true
		case m.region == region && (last == nil || m.goneAt.After(last.goneAt)):
			last = m
		}
	}
	if last == nil || taken[last.address] {
		return ""
	}
	return last.address
}
