package engine_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/engine"
	"dstack/internal/engine/enginetest"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

func newEngine(t testing.TB, db *store.DB, owner string, bus *enginetest.Bus) *engine.Engine {
	t.Helper()
	e, err := engine.New(engine.Config{DB: db, Log: slog.New(slog.DiscardHandler), Owner: owner, Bus: bus, Clock: virtual})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// virtual is the time of a synctest bubble.
func virtual(context.Context, store.Querier) (int64, error) { return store.Micros(time.Now()), nil }

func none(context.Context, store.Querier, []int) ([]string, error) { return nil, nil }

// sleepers records passes over objects that need none for a day.
func sleepers() *recorder {
	return &recorder{answer: func(context.Context, engine.Item) (time.Time, error) { return time.Now().Add(24 * time.Hour), nil }}
}

// recorder is a reconciler that notes its passes and answers with what the test sets.
type recorder struct {
	mu     sync.Mutex
	passes []pass
	answer func(ctx context.Context, it engine.Item) (time.Time, error)
}

type pass struct {
	id    string
	after time.Duration // since the bubble's start
	epoch int64
}

func (r *recorder) reconcile(ctx context.Context, it engine.Item) (time.Time, error) {
	r.mu.Lock()
	r.passes = append(r.passes, pass{it.ID, time.Since(bubbleStart), it.Fence.Epoch})
	answer := r.answer
	r.mu.Unlock()
	if answer == nil {
		return time.Time{}, nil
	}
	return answer(ctx, it)
}

func (r *recorder) ids() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ids []string
	for _, p := range r.passes {
		ids = append(ids, p.id)
	}
	return ids
}

func (r *recorder) times() []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []time.Duration
	for _, p := range r.passes {
		all = append(all, p.after)
	}
	return all
}

// bubbleStart is where virtual time begins.
var bubbleStart = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// bubble runs fn in virtual time with a running engine of one kind "x".
func bubble(t *testing.T, r *recorder, live []string, fn func(t *testing.T, e *engine.Engine)) {
	t.Helper()
	storetest.Bubble(t, func(t *testing.T, db *store.DB) {
		*r = recorder{answer: r.answer}
		e := newEngine(t, db, "a", &enginetest.Bus{})
		e.Register(engine.Kind{Name: "x", Workers: 2, Reconcile: r.reconcile,
			Live: func(context.Context, store.Querier, []int) ([]string, error) { return live, nil }})
		enginetest.Start(t, e)
		settle()
		fn(t, e)
	})
}

// settle lets everything that is due now happen. Database I/O on Postgres is not durably
// blocking, so time stands still until it is done.
func settle() {
	time.Sleep(time.Millisecond)
	synctest.Wait()
}

func TestWake(t *testing.T) {
	r := &recorder{}
	bubble(t, r, nil, func(t *testing.T, e *engine.Engine) {
		if got := r.ids(); len(got) != 0 {
			t.Errorf("passes before any wake-up: %v", got)
		}
		e.Wake("x", "1", "2", "1")
		settle()
		got := r.ids()
		slices.Sort(got)
		if !slices.Equal(got, []string{"1", "2"}) {
			t.Errorf("passes %v, want one for each", got)
		}
		time.Sleep(time.Hour)
		if n := len(r.ids()); n != 2 {
			t.Errorf("%d passes after an idle hour, want 2", n)
		}
	})
}

func TestLiveAtStartAndSweep(t *testing.T) {
	r := &recorder{}
	bubble(t, r, []string{"1"}, func(t *testing.T, e *engine.Engine) {
		if got := r.ids(); !slices.Equal(got, []string{"1"}) {
			t.Errorf("passes at start: %v", got)
		}
		time.Sleep(10*time.Minute + 20*time.Second)
		if n := len(r.ids()); n != 11 {
			t.Errorf("%d passes after ten sweeps, want 11", n)
		}
	})
}

// What was told while nobody listened is made up for, also for objects that have a time of their own: sweeps look
// late for these.
func TestMissedWhileNobodyListened(t *testing.T) {
	storetest.Bubble(t, func(t *testing.T, db *store.DB) {
		bus := &enginetest.Bus{}
		r := sleepers()
		e := newEngine(t, db, "a", bus)
		e.Register(engine.Kind{Name: "x", Reconcile: r.reconcile, Live: func(context.Context, store.Querier, []int) ([]string, error) { return []string{"1"}, nil }})
		enginetest.Start(t, e)
		settle()
		bus.Cut()
		time.Sleep(10 * time.Second)
		if n := len(r.ids()); n != 2 {
			t.Errorf("%d passes, want one at the start and one when others are heard again", n)
		}
	})
}

// What cannot be listed when others are heard again is made up for by the next sweep.
func TestMissedAndNotListed(t *testing.T) {
	storetest.Bubble(t, func(t *testing.T, db *store.DB) {
		bus := &enginetest.Bus{}
		r := sleepers()
		e := newEngine(t, db, "a", bus)
		lists := 0
		e.Register(engine.Kind{Name: "x", Reconcile: r.reconcile, Live: func(context.Context, store.Querier, []int) ([]string, error) {
			if lists++; lists == 2 {
				return nil, errors.New("too many connections")
			}
			return []string{"1"}, nil
		}})
		enginetest.Start(t, e)
		settle()
		bus.Cut()
		time.Sleep(10 * time.Minute)
		if n := len(r.ids()); n != 2 {
			t.Errorf("%d passes, want one at the start and one of the next sweep", n)
		}
	})
}

// A kind that cannot be listed has none of another kind looked at more often.
func TestUnlistedKind(t *testing.T) {
	storetest.Bubble(t, func(t *testing.T, db *store.DB) {
		e := newEngine(t, db, "a", &enginetest.Bus{})
		r := sleepers()
		e.Register(engine.Kind{Name: "well", Reconcile: r.reconcile, Live: func(context.Context, store.Querier, []int) ([]string, error) { return []string{"1"}, nil }})
		ill := &recorder{}
		var listed atomic.Bool
		e.Register(engine.Kind{Name: "ill", Reconcile: ill.reconcile, Live: func(context.Context, store.Querier, []int) ([]string, error) {
			if !listed.Load() {
				return nil, errors.New("row 1: converting NULL to string is unsupported")
			}
			return []string{"2"}, nil
		}})
		enginetest.Start(t, e)
		settle()
		time.Sleep(5*time.Minute + 30*time.Second)
		if well, ill := len(r.ids()), len(ill.ids()); well != 1 || ill != 0 {
			t.Errorf("%d and %d passes, want 1 at the start and none", well, ill)
		}
		listed.Store(true)
		time.Sleep(time.Minute)
		if n := len(ill.ids()); n != 1 {
			t.Errorf("%d passes of what can be listed again, want 1", n)
		}
	})
}

// TestLooksAnyway has 10,000 objects of which nobody wakes any: those whose time is far away are looked at all the
// same, in case a wake-up got lost with a server that had no shards, but no burst of them, and others not more often
// than they ask for.
func TestLooksAnyway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hours = 1
		e := newEngine(t, storetest.SQLite(t), "a", &enginetest.Bus{})
		far, soon := &recorder{}, &recorder{}
		far.answer = func(context.Context, engine.Item) (time.Time, error) { return time.Now().Add(72 * time.Hour), nil }
		soon.answer = func(context.Context, engine.Item) (time.Time, error) { return time.Now().Add(10 * time.Minute), nil }
		live := func(n int) func(context.Context, store.Querier, []int) ([]string, error) {
			return func(context.Context, store.Querier, []int) ([]string, error) { return ids(n), nil }
		}
		e.Register(engine.Kind{Name: "far", Reconcile: far.reconcile, Live: live(10_000)})
		e.Register(engine.Kind{Name: "soon", Reconcile: soon.reconcile, Live: live(100)})
		enginetest.Start(t, e)
		time.Sleep(hours * time.Hour)
		synctest.Wait()
		last, second, busiest := map[string]time.Duration{}, map[time.Duration]int{}, 0
		for _, p := range far.passes {
			if gap := p.after - last[p.id]; gap > 15*time.Minute+time.Second {
				t.Fatalf("nobody looked at %s for %v", p.id, gap)
			}
			last[p.id] = p.after
			if p.after > time.Minute { // after the start
				at := p.after.Truncate(time.Second)
				second[at]++
				busiest = max(busiest, second[at])
			}
		}
		for id, at := range last {
			if gap := hours*time.Hour - at; gap > 15*time.Minute+time.Second {
				t.Fatalf("nobody looked at %s for the last %v", id, gap)
			}
		}
		mean := float64(len(far.passes)-10_000) / (hours * time.Hour).Seconds()
		t.Logf("%.1f passes a second, %d in the busiest", mean, busiest)
		if mean > 15 || busiest > 80 {
			t.Errorf("%.1f passes a second, %d in the busiest, want no more than 15 and 80", mean, busiest)
		}
		if n, want := len(soon.passes), 100*(hours*6+1); n > want {
			t.Errorf("%d passes of what asks for one every 10 min, want %d", n, want)
		}
	})
}

// A wake-up that cannot be sent is sent later.
func TestRefusedWake(t *testing.T) {
	storetest.Bubble(t, func(t *testing.T, db *store.DB) {
		bus, heard := &enginetest.Bus{}, make(chan string, 10)
		e, err := engine.New(engine.Config{DB: db, Log: slog.New(slog.DiscardHandler), Owner: "idle", Bus: bus, Clock: virtual, Resting: true})
		if err != nil {
			t.Fatal(err)
		}
		r := &recorder{}
		e.Register(engine.Kind{Name: "x", Reconcile: r.reconcile, Live: none})
		enginetest.Start(t, e)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = bus.Listen(ctx, func() {}, func(msg string) { heard <- msg }) }()
		settle()
		bus.Refuse(true)
		e.Wake("x", "1")
		time.Sleep(time.Minute)
		bus.Refuse(false)
		time.Sleep(10 * time.Second)
		if n := len(heard); n != 1 {
			t.Errorf("%d messages, want that of the wake-up", n)
		}
	})
}

// A wake-up that cannot be sent before the engine is to end is sent before it has.
func TestRefusedLastWake(t *testing.T) {
	storetest.Bubble(t, func(t *testing.T, db *store.DB) {
		bus, heard := &enginetest.Bus{}, make(chan string, 10)
		e, err := engine.New(engine.Config{DB: db, Log: slog.New(slog.DiscardHandler), Owner: "idle", Bus: bus, Clock: virtual, Resting: true})
		if err != nil {
			t.Fatal(err)
		}
		e.Register(engine.Kind{Name: "x", Reconcile: (&recorder{}).reconcile, Live: none})
		stop := enginetest.StartStoppable(t, e)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = bus.Listen(ctx, func() {}, func(msg string) { heard <- msg }) }()
		settle()
		bus.Refuse(true)
		e.Wake("x", "1")
		time.AfterFunc(2*time.Second, func() { bus.Refuse(false) })
		stop()
		settle()
		if n := len(heard); n != 1 {
			t.Errorf("%d messages, want that of the wake-up", n)
		}
	})
}

// An engine whose wake-ups nobody takes ends all the same.
func TestRefusedLastWakeForGood(t *testing.T) {
	storetest.Bubble(t, func(t *testing.T, db *store.DB) {
		bus := &enginetest.Bus{}
		e, err := engine.New(engine.Config{DB: db, Log: slog.New(slog.DiscardHandler), Owner: "idle", Bus: bus, Clock: virtual, Resting: true})
		if err != nil {
			t.Fatal(err)
		}
		e.Register(engine.Kind{Name: "x", Reconcile: (&recorder{}).reconcile, Live: none})
		stop := enginetest.StartStoppable(t, e)
		settle()
		bus.Refuse(true)
		e.Wake("x", "1")
		began := time.Now()
		stop()
		if d := time.Since(began); d > 6*time.Second {
			t.Errorf("stopping took %v", d)
		}
	})
}

func TestAgain(t *testing.T) {
	r := &recorder{}
	r.answer = func(ctx context.Context, it engine.Item) (time.Time, error) {
		if len(r.ids()) >= 3 {
			return time.Time{}, nil
		}
		return time.Now().Add(time.Minute), nil
	}
	bubble(t, r, nil, func(t *testing.T, e *engine.Engine) {
		e.Schedule("x", "1", time.Now().Add(time.Hour))
		e.Schedule("x", "1", time.Now().Add(time.Second)) // the earlier one counts
		e.Schedule("x", "1", time.Now().Add(time.Hour))
		time.Sleep(2 * time.Hour)
		got := r.times()
		if len(got) != 3 || got[0].Round(10*time.Millisecond) != time.Second || got[2]-got[0] != 2*time.Minute {
			t.Errorf("passes at %v, want 1 s, then each minute", got)
		}
	})
}

func TestWakeDuringPass(t *testing.T) {
	r := &recorder{answer: func(ctx context.Context, it engine.Item) (time.Time, error) {
		time.Sleep(time.Second)
		return time.Time{}, nil
	}}
	bubble(t, r, nil, func(t *testing.T, e *engine.Engine) {
		e.Wake("x", "1")
		time.Sleep(500 * time.Millisecond)
		for range 5 {
			e.Wake("x", "1")
		}
		time.Sleep(time.Minute)
		got := r.times()
		if len(got) != 2 || got[1]-got[0] != time.Second {
			t.Errorf("passes at %v, want a second one right after the first", got)
		}
	})
}

func TestFailuresBackOff(t *testing.T) {
	boom := errors.New("boom")
	r := &recorder{}
	var good atomic.Bool
	r.answer = func(context.Context, engine.Item) (time.Time, error) {
		if good.Load() {
			return time.Time{}, nil
		}
		return time.Time{}, boom
	}
	bubble(t, r, nil, func(t *testing.T, e *engine.Engine) {
		good.Store(false)
		e.Wake("x", "1")
		settle()
		if p := e.Problem("x", "1"); p == nil || !errors.Is(p.Err, boom) || p.Attempt != 1 {
			t.Errorf("Problem = %+v", p)
		}
		time.Sleep(time.Hour)
		got := r.times()
		if len(got) < 25 || len(got) > 50 {
			t.Errorf("%d passes in an hour of failures, want about 35", len(got))
		}
		for i := range got[:len(got)-1] {
			if gap := got[i+1] - got[i]; gap > 150*time.Second || gap < 100*time.Millisecond {
				t.Errorf("gap %d is %v", i, gap)
			}
		}
		good.Store(true)
		e.Wake("x", "1") // a wake-up does not wait for the back-off
		settle()
		if p := e.Problem("x", "1"); p != nil {
			t.Errorf("Problem after success = %+v", p)
		}
	})
}

func TestConflictRunsAgainAtOnce(t *testing.T) {
	r := &recorder{}
	r.answer = func(_ context.Context, it engine.Item) (time.Time, error) {
		if it.Attempt < 4 {
			return time.Time{}, fmt.Errorf("set status: %w", store.ErrConflict)
		}
		return time.Time{}, nil
	}
	bubble(t, r, nil, func(t *testing.T, e *engine.Engine) {
		e.Wake("x", "1")
		time.Sleep(50 * time.Millisecond)
		if n := len(r.ids()); n != 4 {
			t.Errorf("%d passes, want 3 conflicts and a success", n)
		}
	})
}

func TestPanicIsContained(t *testing.T) {
	r := &recorder{}
	r.answer = func(_ context.Context, it engine.Item) (time.Time, error) {
		if it.Attempt == 1 {
			panic("bad object")
		}
		return time.Time{}, nil
	}
	bubble(t, r, nil, func(t *testing.T, e *engine.Engine) {
		e.Wake("x", "1")
		time.Sleep(time.Minute)
		if n := len(r.ids()); n != 2 {
			t.Errorf("%d passes, want the panic and a good one", n)
		}
	})
}

func TestPassTimesOut(t *testing.T) {
	r := &recorder{}
	var cause error
	r.answer = func(ctx context.Context, it engine.Item) (time.Time, error) {
		if it.Attempt == 1 {
			<-ctx.Done()
			cause = ctx.Err()
			return time.Time{}, ctx.Err()
		}
		return time.Time{}, nil
	}
	bubble(t, r, nil, func(t *testing.T, e *engine.Engine) {
		e.Wake("x", "1")
		time.Sleep(6 * time.Minute)
		if n := len(r.ids()); n != 2 || !errors.Is(cause, context.DeadlineExceeded) {
			t.Errorf("%d passes, first ended with %v", n, cause)
		}
	})
}

// TestDrain stops the engine in the middle of two passes: the short one finishes, the long
// one is cancelled, and nothing new begins.
func TestDrain(t *testing.T) {
	storetest.Bubble(t, func(t *testing.T, db *store.DB) {
		ends := map[string]error{}
		var mu sync.Mutex
		e := newEngine(t, db, "a", &enginetest.Bus{})
		e.Register(engine.Kind{Name: "x", Workers: 2, Live: none, Reconcile: func(ctx context.Context, it engine.Item) (time.Time, error) {
			d, _ := time.ParseDuration(it.ID)
			var err error
			select {
			case <-time.After(d):
			case <-ctx.Done():
				err = context.Cause(ctx)
			}
			mu.Lock()
			defer mu.Unlock()
			ends[it.ID] = err
			return time.Time{}, err
		}})
		stop := enginetest.StartStoppable(t, e)
		settle()
		e.Wake("x", "5s", "1h", "1m")
		settle()
		began := time.Now()
		stop()
		mu.Lock()
		defer mu.Unlock()
		if d := time.Since(began); d != 10*time.Second {
			t.Errorf("stopping took %v, want the drain time", d)
		}
		if err, ok := ends["5s"]; !ok || err != nil {
			t.Errorf("short pass: %v, ended %v", err, ok)
		}
		if ends["1h"] == nil {
			t.Error("long pass was not cancelled")
		}
		if _, ok := ends["1m"]; ok {
			t.Error("a waiting object began a pass while draining")
		}
	})
}

// TestQueueProperties wakes objects at random and checks what must always hold: one pass at
// a time per object, at most Workers passes, and a pass that begins after every wake-up.
func TestQueueProperties(t *testing.T) {
	for seed := range 20 {
		synctest.Test(t, func(t *testing.T) {
			m := &model{t: t, running: map[string]bool{}, woken: map[string]time.Time{}, seen: map[string]time.Time{}, rnd: rnd(seed)}
			e := newEngine(t, storetest.SQLite(t), "a", &enginetest.Bus{})
			e.Register(engine.Kind{Name: "x", Workers: 3, Live: none, Reconcile: m.reconcile})
			enginetest.Start(t, e)
			settle()
			for range 300 {
				id := strconv.Itoa(m.rand(20))
				m.mu.Lock()
				m.woken[id] = time.Now()
				m.mu.Unlock()
				e.Wake("x", id)
				time.Sleep(time.Duration(m.rand(40)) * time.Millisecond)
			}
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			m.mu.Lock()
			defer m.mu.Unlock()
			for id, at := range m.woken {
				if m.seen[id].Before(at) {
					t.Errorf("seed %d: %s woken at %v, last pass began at %v", seed, id, at, m.seen[id])
				}
			}
			if s := e.Stats()[0]; s.Running+s.Waiting+s.Scheduled != 0 {
				t.Errorf("seed %d: not idle at the end: %+v", seed, s)
			}
		})
	}
}

// BenchmarkWake measures from Wake to the reconciler and back.
func BenchmarkWake(b *testing.B) {
	e := newEngine(b, storetest.SQLite(b), "a", &enginetest.Bus{})
	reached := make(chan struct{})
	e.Register(engine.Kind{Name: "x", Live: none, Reconcile: func(context.Context, engine.Item) (time.Time, error) {
		reached <- struct{}{}
		return time.Time{}, nil
	}})
	ready := make(chan struct{})
	e.Register(engine.Kind{Name: "ready", Reconcile: func(context.Context, engine.Item) (time.Time, error) {
		close(ready)
		return time.Time{}, nil
	}, Live: func(context.Context, store.Querier, []int) ([]string, error) { return []string{"1"}, nil }})
	enginetest.Start(b, e)
	<-ready
	for b.Loop() {
		e.Wake("x", "1")
		<-reached
	}
}
