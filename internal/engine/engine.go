// Package engine calls reconcilers for the objects of this replica: soon after something
// woke them, when they asked to be looked at again, and never two at a time for one object.
//
// Every object belongs to one of [Shards] shards by a hash of its id. A replica works on
// the shards that it owns in the table shard; the epoch there grows with each owner, and
// every write of a reconciler checks it ([Fence.Check]), so that a replica that was
// overtaken without noticing cannot commit. On SQLite the one process owns all shards. On
// Postgres they are leased and shared evenly.
//
// Objects wait in memory. One that nothing wakes and that asked for no time costs neither
// a query nor memory. A slow sweep finds such objects when their wake-up was lost. At what asked
// for a time it looks late, so wake-ups for others are sent until they are sent, by
// a replica that stops before it ends, and all objects are looked at where wake-ups may have
// been lost unseen: when a replica hears the others again, or takes shards, since whoever had
// them may have died between a commit and its wake-ups. One that dies so and had no shards
// leaves no trace: what it was to wake is looked at within a minute and a quarter, and within
// a quarter of an hour when it asked for a later time.
package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"dstack/internal/store"
)

// Shards is the number of shards. It is part of the schema.
const Shards = 64

// Shard is the shard of the object with this id.
func Shard(id string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // never fails
	return int(h.Sum32() % Shards)
}

// ErrFenced says that another replica has taken the object's shard.
var ErrFenced = errors.New("shard is owned by another replica")

// Config is what New needs; fields are required unless marked optional.
type Config struct {
	DB    *store.DB
	Log   *slog.Logger
	Owner string // unique per process, also after a restart

	// Bus carries wake-ups between replicas; optional: nil is the database's own.
	Bus Bus
	// Resting takes no shards: other replicas do the work, and hear what is told and woken here.
	Resting bool
	// Lease is how long a replica may be silent before others take its shards; optional: 15 s.
	Lease time.Duration
	// Sweep is the time between searches for missed wake-ups; optional: 60 s.
	Sweep time.Duration
	// Drain is how long running passes may go on when the engine ends; optional: 10 s.
	Drain time.Duration
	// Clock is the time that leases end by, in Unix microseconds, the same for all replicas;
	// optional: nil is the database's. A replica's own clock may be wrong or jump.
	Clock func(context.Context, store.Querier) (int64, error)
}

// A Bus carries short messages between replicas. *[store.DB] is one.
type Bus interface {
	Notify(ctx context.Context, msg string) error
	Listen(ctx context.Context, ready func(), fn func(msg string)) error
}

// A Kind is a kind of objects with a reconciler.
type Kind struct {
	Name    string
	Workers int           // passes at the same time; 0 means 8
	Timeout time.Duration // of one pass; 0 means 5 min
	// Live lists the unfinished objects of the given shards. Each gets a pass when its shard
	// is taken, at a sweep unless it is queued already, and 10 to 15 min after the last one
	// even if it asked for a later time.
	Live func(ctx context.Context, q store.Querier, shards []int) ([]string, error)
	// Reconcile looks at one object and does what is due. It is called again at the time it
	// returns (zero: only when woken), and with growing delay after an error.
	// store.ErrConflict means that it should simply run again.
	Reconcile func(ctx context.Context, it Item) (again time.Time, err error)
	// Lost is told when other replicas have taken shards: what is held in memory or open for
	// the objects that are now theirs has to go. Optional.
	Lost func(theirs func(id string) bool)
}

// An Item is one object in one pass.
type Item struct {
	ID      string
	Fence   Fence
	Attempt int // 1, or one more than the passes that failed in a row
}

// Engine runs the reconcilers. It is safe for concurrent use.
type Engine struct {
	Config
	queues map[string]*queue
	shards ownership
	wakes  outbox
	hears  map[string]func(id string)
	start  sync.Mutex // held by Register and at the start of Run
	runs   bool
	barred atomic.Bool // see Barred
}

// Barred says that the engine does nothing since it runs, because the database has refused to give it a
// share of the work so far.
func (e *Engine) Barred() bool { return e.barred.Load() }

// New checks c and returns an Engine. It starts nothing: see [Engine.Run].
func New(c Config) (*Engine, error) {
	if c.DB == nil || c.Log == nil || c.Owner == "" {
		return nil, errors.New("engine: DB, Log and Owner are required")
	}
	if c.Bus == nil {
		c.Bus = c.DB
	}
	c.Lease = cmp.Or(c.Lease, 15*time.Second)
	c.Sweep = cmp.Or(c.Sweep, time.Minute)
	c.Drain = cmp.Or(c.Drain, 10*time.Second)
	if c.Clock == nil {
		c.Clock = databaseClock
	}
	e := &Engine{Config: c, queues: map[string]*queue{}, hears: map[string]func(string){}}
	e.wakes.init()
	return e, nil
}

// Register adds a kind. It panics when the kind is not complete, is registered already, or
// the engine runs: all three are mistakes in wiring.
func (e *Engine) Register(k Kind) {
	e.start.Lock()
	defer e.start.Unlock()
	if e.runs || k.Name == "" || k.Live == nil || k.Reconcile == nil || e.queues[k.Name] != nil {
		panic(fmt.Sprintf("engine: kind %q cannot be registered", k.Name))
	}
	k.Workers = cmp.Or(k.Workers, 8)
	k.Timeout = cmp.Or(k.Timeout, 5*time.Minute)
	e.queues[k.Name] = newQueue(k, e.pass)
}

// Hear calls fn with what any replica tells of a topic, this one included. Like Register, it
// is for the wiring before Run.
func (e *Engine) Hear(topic string, fn func(id string)) {
	e.start.Lock()
	defer e.start.Unlock()
	if e.runs || e.hears[topic] != nil {
		panic(fmt.Sprintf("engine: topic %q cannot be heard", topic))
	}
	e.hears[topic] = fn
}

// Tell lets all replicas hear of an object. What is told while a replica is cut off is lost
// to it: it is for those who wait in front of a screen, not for state.
func (e *Engine) Tell(topic, id string) {
	e.hear(topic, id)
	if e.DB.Engine() == store.Postgres {
		e.wakes.add(topicPrefix+topic, id)
	}
}

func (e *Engine) hear(topic, id string) {
	if fn := e.hears[topic]; fn != nil {
		fn(id)
	}
}

// Run takes shards and calls reconcilers until ctx ends. Then it lets the running passes
// finish for a while, gives the shards back and returns nil; an error means that it could
// not start. It can be called once.
func (e *Engine) Run(ctx context.Context) error {
	e.start.Lock()
	e.runs = true
	e.start.Unlock()

	// Passes outlive ctx by the drain time.
	work, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)

	// Listen before the first look at the database: nothing falls in between.
	g, ctx := errgroup.WithContext(ctx)
	ready := make(chan struct{})
	g.Go(func() error { e.listen(ctx, sync.OnceFunc(func() { close(ready) })); return nil })
	sending, unsent := context.WithCancel(context.WithoutCancel(ctx)) // the last passes wake others, too
	defer unsent()
	var sender sync.WaitGroup
	sender.Go(func() { e.send(sending) })
	g.Go(func() error {
		select {
		case <-ready:
		case <-ctx.Done():
			return nil
		}
		if e.Resting {
			<-ctx.Done()
			return nil
		}
		ends, ok := e.insist(ctx)
		if !ok {
			return nil
		}
		for _, q := range e.queues {
			q.open(work)
		}
		g.Go(func() error { e.sweep(ctx); return nil })
		e.keep(ctx, ends)
		return nil
	})
	err := g.Wait()

	var passes sync.WaitGroup
	for _, q := range e.queues {
		passes.Go(q.close)
	}
	timer := time.AfterFunc(e.Drain, func() { stop(errDrained) })
	passes.Wait()
	timer.Stop()
	unsent()
	sender.Wait()
	e.sendLast(context.WithoutCancel(ctx))
	if releaseErr := e.release(context.WithoutCancel(ctx)); releaseErr != nil {
		e.Log.Warn("shards were not given back, others wait for their lease to end", "err", releaseErr)
	}
	return err
}

var errDrained = errors.New("server is stopping")

// Wake asks for a pass of each object, here or on the replica that owns it. Call it after
// the commit that they should see ([store.Tx.OnCommit]). Wake-ups for an object that waits
// for its pass are one; those during a pass cause one more. It does not block.
func (e *Engine) Wake(kind string, ids ...string) {
	q := e.queues[kind]
	if q == nil {
		e.Log.Error("wake-up for a kind without reconciler", "kind", kind)
		return
	}
	for _, id := range ids {
		if e.shards.epoch(Shard(id)) != 0 {
			q.wake(id)
		} else {
			e.wakes.add(kind, id)
		}
	}
}

// Schedule asks for a pass at the given time, or earlier if one is due earlier. It is for
// reconcilers and does nothing for objects of other replicas.
func (e *Engine) Schedule(kind, id string, at time.Time) {
	if q := e.queues[kind]; q != nil && e.shards.epoch(Shard(id)) != 0 {
		q.schedule(id, at)
	}
}

// A Problem is why an object's passes fail.
type Problem struct {
	Err     error
	Attempt int       // passes that failed in a row
	Next    time.Time // of the next attempt
}

// Problem returns why the last pass of an object failed, nil when it did not, or when the
// object belongs to another replica.
func (e *Engine) Problem(kind, id string) *Problem {
	if q := e.queues[kind]; q != nil {
		return q.problem(id)
	}
	return nil
}

// Stats are numbers of one kind since the start.
type Stats struct {
	Kind            string
	Waiting         int // for a worker
	Scheduled       int // for a later time
	Running         int
	Passes, Failed  int64
	Busy            time.Duration // sum over the passes
	LongestInFlight time.Duration
}

// Stats returns the numbers of each kind, in no order.
func (e *Engine) Stats() []Stats {
	var all []Stats
	for _, q := range e.queues {
		all = append(all, q.stats())
	}
	return all
}
