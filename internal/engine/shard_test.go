package engine_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/engine"
	"dstack/internal/engine/enginetest"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// joined is how long a replica that joins others waits for its share, at most: a lease, and until the others
// have given it away.
const joined = 25 * time.Second

// replica is an engine with one kind "x" whose live objects are all of ids.
type replica struct {
	recorder
	e    *engine.Engine
	stop func()
}

func ids(n int) []string {
	var all []string
	for i := range n {
		all = append(all, strconv.Itoa(i))
	}
	return all
}

func startReplica(t *testing.T, db *store.DB, bus *enginetest.Bus, name string, live []string) *replica {
	t.Helper()
	r := &replica{e: newEngine(t, db, name, bus)}
	r.e.Register(engine.Kind{Name: "x", Reconcile: r.reconcile, Live: func(_ context.Context, _ store.Querier, shards []int) ([]string, error) {
		var mine []string
		for _, id := range live {
			for _, s := range shards {
				if engine.Shard(id) == s {
					mine = append(mine, id)
				}
			}
		}
		return mine, nil
	}})
	r.stop = sync.OnceFunc(enginetest.StartStoppable(t, r.e))
	t.Cleanup(r.stop)
	settle()
	return r
}

func (r *replica) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.passes = nil
}

func owners(t *testing.T, db *store.DB) map[string]int {
	t.Helper()
	rows, err := db.Read().QueryContext(t.Context(), `SELECT owner, count(*) FROM shard GROUP BY owner`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	m := map[string]int{}
	for rows.Next() {
		var owner string
		var n int
		if err := rows.Scan(&owner, &n); err != nil {
			t.Fatal(err)
		}
		m[owner] = n
	}
	return m
}

func TestEpochGrowsAtEachStart(t *testing.T) {
	storetest.Bubble(t, func(t *testing.T, db *store.DB) {
		var last int64
		for i := range 3 {
			r := startReplica(t, db, &enginetest.Bus{}, fmt.Sprint("start ", i), ids(1))
			if len(r.passes) != 1 || r.passes[0].epoch <= last {
				t.Fatalf("passes %+v after epoch %d", r.passes, last)
			}
			last = r.passes[0].epoch
			r.stop()
		}
	})
}

// TestDatabaseThatRefusesAtStart has the first look at the database fail for a minute, as when its disk is
// full: the engine goes on asking.
func TestDatabaseThatRefusesAtStart(t *testing.T) {
	storetest.Bubble(t, func(t *testing.T, db *store.DB) {
		rename(t, db, "shard", "elsewhere")
		r := startReplica(t, db, &enginetest.Bus{}, "late", ids(10))
		time.Sleep(time.Minute)
		if !r.e.Barred() || len(r.ids()) > 0 {
			t.Errorf("barred: %t; it has looked at %v", r.e.Barred(), r.ids())
		}
		rename(t, db, "elsewhere", "shard")
		time.Sleep(11 * time.Second)
		settle()
		if n := len(r.ids()); r.e.Barred() || n != 10 {
			t.Errorf("%d of 10 objects were looked at, barred: %t", n, r.e.Barred())
		}
	})
}

// TestShardsEditedByHand has rows of shards changed under a server that has SQLite to itself: it goes on.
func TestShardsEditedByHand(t *testing.T) {
	for name, edit := range map[string]string{"deleted": `DELETE FROM shard`, "another epoch": `UPDATE shard SET epoch = epoch + 5`} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				db := storetest.SQLite(t)
				e := newEngine(t, db, "a", &enginetest.Bus{})
				stored := 0
				e.Register(engine.Kind{Name: "x", Live: none, Reconcile: func(ctx context.Context, it engine.Item) (time.Time, error) {
					return time.Time{}, db.Write(ctx, func(tx *store.Tx) error {
						tx.OnCommit(func() { stored++ })
						return it.Fence.Check(ctx, tx)
					})
				}})
				enginetest.Start(t, e)
				settle()
				runSQL(t, db, edit)
				e.Wake("x", "1")
				time.Sleep(20 * time.Second)
				e.Wake("x", "1")
				settle()
				if stored != 1 {
					t.Errorf("%d passes could store something after half a minute, want the second", stored)
				}
			})
		})
	}
}

func rename(t *testing.T, db *store.DB, from, to string) {
	t.Helper()
	runSQL(t, db, "ALTER TABLE "+from+" RENAME TO "+to)
}

func runSQL(t *testing.T, db *store.DB, statement string) {
	t.Helper()
	if err := db.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.ExecContext(t.Context(), statement)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// TestReplicasShare has a second replica join and leave.
func TestReplicasShare(t *testing.T) {
	url := storetest.PostgresURL(t)
	synctest.Test(t, func(t *testing.T) {
		db, bus := storetest.Open(t, url), &enginetest.Bus{}
		a := startReplica(t, db, bus, "a", ids(500))
		if n := len(a.ids()); n != 500 {
			t.Fatalf("%d passes of the only replica, want 500", n)
		}
		b := startReplica(t, db, bus, "b", ids(500))
		time.Sleep(joined)
		if got := owners(t, db); got["a"] != 32 || got["b"] != 32 {
			t.Fatalf("shards by owner: %v", got)
		}
		a.reset()
		b.reset()
		for _, id := range ids(500) { // from one replica only: the bus carries half of them
			a.e.Wake("x", id)
		}
		settle()
		if na, nb := len(a.ids()), len(b.ids()); na+nb != 500 || na < 100 || nb < 100 {
			t.Errorf("%d and %d passes, want 500 in all, shared", na, nb)
		}
		b.stop()
		a.reset()
		time.Sleep(6 * time.Second) // leaving gives the shards back: no wait for the lease
		if got := owners(t, db); got["a"] != 64 {
			t.Errorf("shards after b left: %v", got)
		}
		if n := len(a.ids()); n < 100 {
			t.Errorf("a looked at %d objects of b", n)
		}
	})
}

// TestTakeover has a replica fall silent in the middle of a pass. Another takes over, and
// the first cannot commit any more.
func TestTakeover(t *testing.T) {
	url := storetest.PostgresURL(t)
	synctest.Test(t, func(t *testing.T) {
		db := storetest.Open(t, url)
		silent := storetest.Open(t, url)
		a := startReplica(t, silent, &enginetest.Bus{}, "a", nil)
		var late error
		a.mu.Lock()
		a.answer = func(_ context.Context, it engine.Item) (time.Time, error) {
			time.Sleep(time.Minute) // a long cloud call; meanwhile the lease runs out
			late = db.Write(context.Background(), func(tx *store.Tx) error { return it.Fence.Check(context.Background(), tx) })
			return time.Time{}, late
		}
		a.mu.Unlock()
		a.e.Wake("x", "7")
		settle()
		if err := silent.Close(); err != nil { // a cannot renew
			t.Fatal(err)
		}
		b := startReplica(t, db, &enginetest.Bus{}, "b", ids(10))
		time.Sleep(25 * time.Second)
		if n := len(b.ids()); n != 10 {
			t.Errorf("b looked at %d objects after the lease of a, want 10", n)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if !errors.Is(late, engine.ErrFenced) {
			t.Errorf("the late commit of a: %v, want ErrFenced", late)
		}
	})
}

// TestLeaseByDatabaseClock has a replica whose own clock is decades behind, as in any bubble:
// its leases end when the database says so.
func TestLeaseByDatabaseClock(t *testing.T) {
	url := storetest.PostgresURL(t)
	synctest.Test(t, func(t *testing.T) {
		db := storetest.Open(t, url)
		e, err := engine.New(engine.Config{DB: db, Log: slog.New(slog.DiscardHandler), Owner: "behind", Bus: &enginetest.Bus{}, Lease: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		enginetest.Start(t, e)
		settle()
		var ends float64 // seconds from now
		const left = `SELECT min(expires_at) / 1e6 - extract(epoch FROM now()) FROM shard WHERE owner = 'behind'`
		if err := db.Read().QueryRowContext(t.Context(), left).Scan(&ends); err != nil {
			t.Fatal(err)
		}
		if ends < 3000 || ends > 3600 {
			t.Errorf("the leases of an hour end in %.0f s", ends)
		}
	})
}

// TestSecondEngineFencesFirst is the same without leases: two on one SQLite file.
func TestSecondEngineFencesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := storetest.SQLite(t)
		check := func(ctx context.Context, it engine.Item) (time.Time, error) {
			return time.Time{}, db.Write(ctx, func(tx *store.Tx) error { return it.Fence.Check(ctx, tx) })
		}
		a := startReplica(t, db, &enginetest.Bus{}, "a", nil)
		a.answer = check
		b := startReplica(t, db, &enginetest.Bus{}, "b", nil)
		b.answer = check
		a.e.Wake("x", "1")
		b.e.Wake("x", "1")
		settle()
		if p := b.e.Problem("x", "1"); p != nil {
			t.Errorf("the newer engine fails: %v", p.Err)
		}
		a.e.Wake("x", "1")
		settle()
		if n := len(a.ids()); n != 1 {
			t.Errorf("%d passes on the fenced engine, want 1: it gave the shard up", n)
		}
	})
}

// TestLostNotification mutes the bus: the sweep of the owner finds the object.
func TestLostNotification(t *testing.T) {
	url := storetest.PostgresURL(t)
	synctest.Test(t, func(t *testing.T) {
		db, bus := storetest.Open(t, url), &enginetest.Bus{}
		a := startReplica(t, db, bus, "a", ids(100))
		b := startReplica(t, db, bus, "b", ids(100))
		time.Sleep(joined)
		bus.Mute(true)
		b.reset()
		a.e.Wake("x", ids(100)...)
		time.Sleep(80 * time.Second)
		if n := len(b.ids()); n < 20 {
			t.Errorf("b looked at %d objects, want its half", n)
		}
	})
}

// TestCrashLoop has a replica start again and again, each time to be killed before its first lease ends: the
// one that is well keeps its work.
func TestCrashLoop(t *testing.T) {
	url := storetest.PostgresURL(t)
	synctest.Test(t, func(t *testing.T) {
		db, bus := storetest.Open(t, url), &enginetest.Bus{}
		startReplica(t, db, bus, "a", nil)
		time.Sleep(16 * time.Second)
		for n := range 4 {
			own := storetest.Open(t, url)
			b := startReplica(t, own, bus, fmt.Sprint("b", n), nil)
			time.Sleep(5 * time.Second)
			if err := own.Close(); err != nil { // it leaves without a word
				t.Fatal(err)
			}
			b.stop()
			time.Sleep(2 * time.Second)
			if got := owners(t, db); got["a"] < 48 {
				t.Errorf("after crash %d, shards by owner: %v", n+1, got)
			}
		}
	})
}

// TestDeadReplicasAreForgotten has one in the database that died long ago.
func TestDeadReplicasAreForgotten(t *testing.T) {
	url := storetest.PostgresURL(t)
	synctest.Test(t, func(t *testing.T) {
		db := storetest.Open(t, url)
		joinAsBefore(t, db, "dead", time.Now().Add(-2*time.Hour))
		startReplica(t, db, &enginetest.Bus{}, "a", nil)
		var rows int
		if err := db.Read().QueryRowContext(t.Context(), `SELECT count(*) FROM replica`).Scan(&rows); err != nil {
			t.Fatal(err)
		}
		if rows != 1 {
			t.Errorf("%d replicas are remembered, want the one that lives", rows)
		}
	})
}

// joinAsBefore joins as the version before does, for a lease until the given time.
func joinAsBefore(t *testing.T, db *store.DB, owner string, until time.Time) {
	t.Helper()
	if err := db.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.ExecContext(t.Context(), `INSERT INTO replica (owner, expires_at) VALUES ($1, $2)
			ON CONFLICT (owner) DO UPDATE SET expires_at = excluded.expires_at`, owner, store.Micros(until))
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// TestReplicaOfVersionBefore has one that joined as the version before does, which counts all others at once
// and gives their share away: it is taken at once.
func TestReplicaOfVersionBefore(t *testing.T) {
	url := storetest.PostgresURL(t)
	synctest.Test(t, func(t *testing.T) {
		db := storetest.Open(t, url)
		joinAsBefore(t, db, "old", time.Now().Add(time.Hour))
		startReplica(t, db, &enginetest.Bus{}, "new", nil)
		if got := owners(t, db); got["new"] != 32 {
			t.Errorf("shards by owner: %v", got)
		}
		time.Sleep(time.Minute)
		if got := owners(t, db); got["new"] != 32 {
			t.Errorf("after a minute, shards by owner: %v", got)
		}
	})
}

// pair starts two replicas that share two objects, and returns the id of each one's.
func pair(t *testing.T, dbA, dbB *store.DB, bus *enginetest.Bus) (a, b *replica, ofA, ofB string) {
	t.Helper()
	for n := 0; ofA == "" || ofB == ""; n++ { // who is there first keeps the first shards
		if id := strconv.Itoa(n); engine.Shard(id) < engine.Shards/2 {
			ofA = id
		} else {
			ofB = id
		}
	}
	a = startReplica(t, dbA, bus, "a", []string{ofA, ofB})
	b = startReplica(t, dbB, bus, "b", []string{ofA, ofB})
	b.mu.Lock()
	b.answer = func(context.Context, engine.Item) (time.Time, error) { return time.Now().Add(24 * time.Hour), nil }
	b.mu.Unlock()
	time.Sleep(joined)
	if got := b.ids(); len(got) != 1 || got[0] != ofB {
		t.Fatalf("b has looked at %v, want its %s", got, ofB)
	}
	b.reset()
	return a, b, ofA, ofB
}

// TestWakeWhileStopping has a pass of a replica that stops wake an object of another, which has a time of its own.
func TestWakeWhileStopping(t *testing.T) {
	url := storetest.PostgresURL(t)
	synctest.Test(t, func(t *testing.T) {
		db := storetest.Open(t, url)
		a, b, ofA, ofB := pair(t, db, db, &enginetest.Bus{})
		a.mu.Lock()
		a.answer = func(ctx context.Context, _ engine.Item) (time.Time, error) {
			time.Sleep(2 * time.Second)
			a.e.Wake("x", ofB)
			<-ctx.Done() // drained: until then nobody takes what is a's
			return time.Time{}, ctx.Err()
		}
		a.mu.Unlock()
		a.e.Wake("x", ofA)
		time.Sleep(time.Second)
		stopped := make(chan struct{})
		go func() { a.stop(); close(stopped) }()
		time.Sleep(2 * time.Second)
		settle()
		if got := b.ids(); len(got) != 1 || got[0] != ofB {
			t.Errorf("b has looked at %v, want its %s", got, ofB)
		}
		<-stopped
	})
}

// TestDiesBeforeNotifying has a wake-up be lost with the replica that was to send it.
func TestDiesBeforeNotifying(t *testing.T) {
	url := storetest.PostgresURL(t)
	synctest.Test(t, func(t *testing.T) {
		db, bus, silent := storetest.Open(t, url), &enginetest.Bus{}, storetest.Open(t, url)
		a, b, _, ofB := pair(t, silent, db, bus)
		bus.Mute(true)
		a.e.Wake("x", ofB)
		settle()
		if err := silent.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(25 * time.Second)
		if got := b.ids(); len(got) != 2 {
			t.Errorf("b has looked at %v, want its own and what it took", got)
		}
	})
}

// TestDiesWithoutShards has a wake-up be lost with a replica that had no shards: nobody takes any from it, and the
// owner of the object looks at it before long all the same.
func TestDiesWithoutShards(t *testing.T) {
	url := storetest.PostgresURL(t)
	synctest.Test(t, func(t *testing.T) {
		db, bus := storetest.Open(t, url), &enginetest.Bus{}
		a := startReplica(t, db, bus, "a", ids(1))
		a.mu.Lock()
		a.answer = func(context.Context, engine.Item) (time.Time, error) { return time.Now().Add(72 * time.Hour), nil }
		a.mu.Unlock()
		a.e.Wake("x", "0")
		time.Sleep(time.Minute)
		own := storetest.Open(t, url)
		b := startReplica(t, own, bus, "b", ids(1))
		bus.Mute(true)
		a.reset()
		b.e.Wake("x", "0")
		settle()
		if err := own.Close(); err != nil { // it leaves without a word
			t.Fatal(err)
		}
		b.stop()
		time.Sleep(15 * time.Minute)
		if got := a.ids(); len(got) != 1 {
			t.Errorf("a has looked at %v, want one look", got)
		}
	})
}

// TestFirstLookTakesLong has the database be gone while the first look is under way: the shards are given up
// when the lease ends, which began before it.
func TestFirstLookTakesLong(t *testing.T) {
	url := storetest.PostgresURL(t)
	synctest.Test(t, func(t *testing.T) {
		db := storetest.Open(t, url)
		e := newEngine(t, db, "a", &enginetest.Bus{})
		began := time.Now()
		lost := make(chan time.Time, 1)
		e.Register(engine.Kind{
			Name:      "x",
			Reconcile: (&recorder{}).reconcile,
			Live: func(ctx context.Context, _ store.Querier, _ []int) ([]string, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			},
			Lost: func(func(string) bool) { lost <- time.Now() },
		})
		enginetest.Start(t, e)
		settle()
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if after := (<-lost).Sub(began); after > 15*time.Second+time.Millisecond {
			t.Errorf("given up after %v, and the lease is 15 s", after)
		}
	})
}
