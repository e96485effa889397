package engine

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"dstack/internal/store"
)

// A Fence is the right to write objects of a shard, as of one pass.
type Fence struct {
	Shard int
	Epoch int64
}

// Check returns ErrFenced when another replica has taken the shard since. Every write
// transaction of a reconciler begins with it.
func (f Fence) Check(ctx context.Context, tx *store.Tx) error {
	var epoch int64
	err := store.Scan(tx.QueryRowContext(ctx, selectEpoch, f.Shard), &epoch)
	if _, damaged := errors.AsType[*store.Damage](err); damaged { // on SQLite, where nobody else takes shards
		_, err := tx.ExecContext(ctx, mendEpoch, f.Epoch, f.Shard)
		return err
	}
	if errors.Is(err, sql.ErrNoRows) || (err == nil && epoch != f.Epoch) {
		return ErrFenced
	}
	return err
}

// ownership is which shards this replica owns: their epochs, 0 for others.
type ownership struct {
	epochs [Shards]atomic.Int64
	fenced [Shards]atomic.Bool // lost by a fence since the last set
}

func (o *ownership) epoch(shard int) int64 { return o.epochs[shard].Load() }

func (o *ownership) fence(shard int) Fence { return Fence{shard, o.epoch(shard)} }

// lose forgets a shard if it is still held with that epoch.
func (o *ownership) lose(f Fence) {
	if o.epochs[f.Shard].CompareAndSwap(f.Epoch, 0) {
		o.fenced[f.Shard].Store(true)
	}
}

func (o *ownership) owned() []int {
	var ids []int
	for i := range o.epochs {
		if o.epochs[i].Load() != 0 {
			ids = append(ids, i)
		}
	}
	return ids
}

// set replaces what is owned and returns the shards that are new or have a new epoch, and
// those that are lost.
func (o *ownership) set(now map[int]int64) (taken []int, lost map[int]bool) {
	lost = map[int]bool{}
	for i := range o.epochs {
		fenced := o.fenced[i].Swap(false)
		switch old := o.epochs[i].Swap(now[i]); {
		case now[i] != 0 && now[i] != old:
			taken = append(taken, i)
		case now[i] == 0 && (old != 0 || fenced):
			lost[i] = true
		}
	}
	return taken, lost
}

// acquire is the first look: on SQLite it takes everything for good, on Postgres it joins. It returns when
// the lease ends.
func (e *Engine) acquire(ctx context.Context) (ends time.Time, err error) {
	err = e.DB.Write(ctx, func(tx *store.Tx) error {
		added, err := tx.ExecContext(ctx, addShards)
		if err != nil {
			return fmt.Errorf("complete the shards: %w", err)
		}
		if n, err := added.RowsAffected(); err == nil && n > 0 {
			e.Log.Error("shards were missing in the database: what belongs to them stood still", "shards", n)
		}
		return nil
	})
	if err != nil {
		return ends, err
	}
	if e.DB.Engine() == store.Postgres {
		ends = time.Now().Add(e.Lease)
		now, err := e.renew(ctx)
		if err == nil {
			e.own(ctx, now)
		}
		return ends, err
	}
	var now map[int]int64
	err = e.DB.Write(ctx, func(tx *store.Tx) (err error) {
		now, err = e.takeAll(ctx, tx)
		return err
	})
	if err != nil {
		return ends, err
	}
	e.own(ctx, now)
	return ends, nil
}

// takeAll takes every shard for good, whoever has it.
func (e *Engine) takeAll(ctx context.Context, tx *store.Tx) (map[int]int64, error) {
	return byKey[int](tx.QueryContext(ctx, takeAllShards, e.Owner, int64(math.MaxInt64)))
}

// insist takes shards, however long the database refuses: its disk may be full, or it may be failing
// over. It returns when their lease ends, and false when ctx ended before.
func (e *Engine) insist(ctx context.Context) (ends time.Time, ok bool) {
	for pause := time.Second; ; pause = min(2*pause, 10*time.Second) {
		ends, err := e.acquire(ctx)
		if e.barred.Store(err != nil); err == nil {
			return ends, true
		}
		if ctx.Err() != nil {
			return ends, false
		}
		e.Log.Error("nobody works on runs and machines here: the database does not give this server its share of the work", "err", err, "retry_in", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ends, false
		}
	}
}

// keep renews leases, which end at the given time, until ctx ends. It gives the shards up when
// they could not be renewed for as long as the lease: others have them by then.
func (e *Engine) keep(ctx context.Context, ends time.Time) {
	if e.DB.Engine() != store.Postgres {
		e.keepAll(ctx)
		return
	}
	tick := time.NewTicker(e.Lease / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		began := time.Now()
		now, err := e.renewBefore(ctx, ends)
		switch {
		case err == nil:
			ends = began.Add(e.Lease)
			e.own(ctx, now)
		case ctx.Err() != nil:
			return
		default:
			e.Log.Warn("lease not renewed", "err", err)
			if !time.Now().Before(ends) {
				e.own(ctx, nil)
			}
		}
	}
}

// keepAll takes the shards again when a pass has found one gone or of another epoch although no other server has any:
// on SQLite, which a server has to itself, their rows were deleted or changed by hand. One that was overtaken, on a
// shared disk, say, leaves them alone.
func (e *Engine) keepAll(ctx context.Context) {
	tick := time.NewTicker(e.Lease)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if len(e.shards.owned()) == Shards {
			continue
		}
		now, err := e.retakeAll(ctx)
		switch {
		case err != nil:
			e.Log.Warn("shards not taken again", "err", err)
		case now != nil:
			e.Log.Error("the shards were changed in the database: this server has taken them again")
			e.own(ctx, now)
		}
	}
}

// retakeAll is nil when another server has some.
func (e *Engine) retakeAll(ctx context.Context) (now map[int]int64, err error) {
	err = e.DB.Write(ctx, func(tx *store.Tx) error {
		now = nil // of an attempt before this one
		var theirs int
		if err := tx.QueryRowContext(ctx, countTheirShards, e.Owner).Scan(&theirs); err != nil || theirs > 0 {
			return err
		}
		if _, err := tx.ExecContext(ctx, addShards); err != nil {
			return err
		}
		now, err = e.takeAll(ctx, tx)
		return err
	})
	return now, err
}

var errSilent = errors.New("the database does not answer in time")

// renewBefore is renew that waits for the database until the lease ends, and no longer than
// the time to the next attempt: a database behind a broken network does not say no.
func (e *Engine) renewBefore(ctx context.Context, ends time.Time) (map[int]int64, error) {
	wait := e.Lease / 3
	if left := time.Until(ends); left > 0 {
		wait = min(wait, left)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, wait, errSilent)
	defer cancel()
	return e.renew(ctx)
}

// sweep looks for missed wake-ups until ctx ends.
func (e *Engine) sweep(ctx context.Context) {
	tick := time.NewTicker(e.Sweep)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			e.sweepOnce(ctx)
		}
	}
}

func (e *Engine) sweepOnce(ctx context.Context) {
	ctx, cancel := context.WithTimeoutCause(ctx, e.Sweep, errSilent)
	defer cancel()
	next := time.Now().Add(e.Sweep)
	for _, q := range e.inOrder() {
		if q.missed.Swap(false) {
			e.lookAt(ctx, q, nil)
			continue
		}
		ids, _ := e.live(ctx, q)
		for _, id := range ids {
			q.sweep(id, time.Now().Add(apart(e.Sweep/4, id, 0)), next)
		}
	}
}

// lookAtAll looks within a second at all that this replica owns, also at what has a time of its own and
// sweeps look for late, and at once at what is in the shards that it has just taken.
func (e *Engine) lookAtAll(ctx context.Context, taken []int) {
	for _, q := range e.inOrder() {
		e.lookAt(ctx, q, taken)
	}
}

// lookAt is lookAtAll for one kind. When its objects cannot be listed the next sweep is to do it, for this
// kind alone: one that can never be listed must not have all the others looked at each minute.
func (e *Engine) lookAt(ctx context.Context, q *queue, taken []int) {
	ids, ok := e.live(ctx, q)
	if !ok {
		q.missed.Store(true)
	}
	for _, id := range ids {
		if slices.Contains(taken, Shard(id)) {
			q.wake(id)
		} else {
			q.schedule(id, time.Now().Add(apart(time.Second, id, 0)))
		}
	}
}

// forgetAfter is how long the row of a replica stays that died without leaving.
const forgetAfter = time.Hour

// share is how many shards a replica may have among live ones, which were there for those times when they were
// heard of last, in microseconds and with the lease. One that has not been there for a lease neither counts nor
// takes any, 0: it may be one that dies soon after each start, and what it takes stands still until its lease
// ends. This is so as long as there is another to do the work, and none of the version before, which says no
// time, -1: it counts all at once, and gives away what is over its share.
func share(there map[string]int64, owner string, lease int64) int {
	settled := 0
	for _, d := range there {
		if d < 0 {
			settled = 0
			break
		}
		if d >= 2*lease {
			settled++
		}
	}
	switch {
	case settled == 0:
		settled = len(there)
	case there[owner] < 2*lease:
		return 0
	}
	return (Shards + settled - 1) / settled
}

// renew keeps what this replica has, gives away what is over its share, and takes what is
// free up to its share. Without a share it keeps what it has: nobody else is known to want it.
func (e *Engine) renew(ctx context.Context) (now map[int]int64, err error) {
	err = e.DB.Write(ctx, func(tx *store.Tx) (err error) {
		at, err := e.Clock(ctx, tx)
		if err != nil {
			return err
		}
		expires := at + e.Lease.Microseconds()
		if _, err := tx.ExecContext(ctx, joinReplicas, e.Owner, expires, at); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, forgetReplicas, at-forgetAfter.Microseconds()); err != nil {
			return err
		}
		there, err := byKey[string](tx.QueryContext(ctx, selectReplicas, at))
		if err != nil {
			return err
		}
		share := share(there, e.Owner, e.Lease.Microseconds())
		if share > 0 {
			if _, err := tx.ExecContext(ctx, freeSurplus, e.Owner, share); err != nil {
				return err
			}
		}
		if now, err = byKey[int](tx.QueryContext(ctx, renewShards, e.Owner, expires)); err != nil {
			return err
		}
		if len(now) >= share {
			return nil
		}
		more, err := byKey[int](tx.QueryContext(ctx, takeShards, e.Owner, expires, at, share-len(now)))
		for id, epoch := range more {
			now[id] = epoch
		}
		return err
	})
	return now, err
}

func databaseClock(ctx context.Context, q store.Querier) (at int64, err error) {
	err = q.QueryRowContext(ctx, selectClock).Scan(&at)
	return at, err
}

// own notes what this replica owns now and looks for the work in what it took.
func (e *Engine) own(ctx context.Context, now map[int]int64) {
	taken, lost := e.shards.set(now)
	if len(lost) > 0 {
		for kind, q := range e.queues {
			for _, id := range q.drop(func(shard int) bool { return lost[shard] }) {
				e.wakes.add(kind, id)
			}
			if q.Lost != nil {
				q.Lost(func(id string) bool { return lost[Shard(id)] })
			}
		}
	}
	if len(taken)+len(lost) > 0 {
		e.Log.Info("shards changed", "owned", len(now), "taken", len(taken), "lost", len(lost))
	}
	if len(taken) == 0 {
		return
	}
	// Whoever had them may have died between a commit and its wake-ups: those for what is here already, too.
	ctx, cancel := context.WithTimeoutCause(ctx, e.Lease/3, errSilent) // renewing must go on
	defer cancel()
	e.lookAtAll(ctx, taken)
}

// inOrder returns the queues in the order of their kinds' names.
func (e *Engine) inOrder() []*queue {
	var all []*queue
	for _, kind := range slices.Sorted(maps.Keys(e.queues)) {
		all = append(all, e.queues[kind])
	}
	return all
}

// live lists the live objects of a kind in the shards of this replica. It is false when it could not.
func (e *Engine) live(ctx context.Context, q *queue) (ids []string, ok bool) {
	shards := e.shards.owned()
	if len(shards) == 0 {
		return nil, true
	}
	ids, err := q.Live(ctx, e.DB.Read(), shards)
	if err != nil {
		if ctx.Err() == nil {
			e.Log.Warn("live objects not listed, the next sweep will", "kind", q.Name, "err", err)
		}
		return nil, false
	}
	return ids, true
}

// release gives the shards back at the end, so that others need not wait for the lease.
func (e *Engine) release(ctx context.Context) error {
	e.shards.set(nil)
	if e.DB.Engine() != store.Postgres {
		return nil // the next start takes them all anyway
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return e.DB.Write(ctx, func(tx *store.Tx) error {
		if _, err := tx.ExecContext(ctx, releaseShards, e.Owner); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, leaveReplicas, e.Owner)
		return err
	})
}

// byKey reads rows of a key and a number.
func byKey[K comparable](rows *sql.Rows, err error) (map[K]int64, error) {
	m := map[K]int64{}
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var key K
		var n int64
		if err := rows.Scan(&key, &n); err != nil {
			return err
		}
		m[key] = n
		return nil
	})
	return m, err
}

// HashedQuery is [LiveQuery] for a query of ids whose rows do not say their shard: the shard
// follows from the id.
func HashedQuery(query string) func(context.Context, store.Querier, []int) ([]string, error) {
	return func(ctx context.Context, q store.Querier, shards []int) ([]string, error) {
		var ids []string
		rows, err := q.QueryContext(ctx, query)
		err = store.EachRow(rows, err, func(rows *sql.Rows) error {
			var id string
			err := rows.Scan(&id)
			if slices.Contains(shards, Shard(id)) {
				ids = append(ids, id)
			}
			return err
		})
		return ids, err
	}
}

// LiveQuery makes a [Kind]'s Live of a query for ids that ends with "shard IN". Rows whose shard is
// none, because somebody edited it, belong to that of their id.
func LiveQuery(query string) func(context.Context, store.Querier, []int) ([]string, error) {
	head := strings.TrimSuffix(query, "shard IN")
	return func(ctx context.Context, q store.Querier, shards []int) ([]string, error) {
		if len(shards) == 0 {
			return nil, nil
		}
		in := make([]string, len(shards))
		for i, s := range shards {
			in[i] = strconv.Itoa(s)
		}
		text := fmt.Sprintf("%s(shard IN (%s) OR shard NOT BETWEEN 0 AND %d)", head, strings.Join(in, ", "), Shards-1)
		return HashedQuery(text)(ctx, q, shards)
	}
}
