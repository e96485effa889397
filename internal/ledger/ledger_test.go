package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/backend"
	"dstack/internal/backend/fake"
	"dstack/internal/ledger"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

var plain = fake.Config{Boot: 40 * time.Second, Deletion: 5 * time.Second, Latency: 300 * time.Millisecond}

func TestLife(t *testing.T) {
	each(t, plain, func(w *world) {
		id := w.intend()
		time.Sleep(time.Second)
		r := w.want(id, ledger.Created, 1)
		m := w.cloud.Live()[0]
		if !strings.HasPrefix(m.Name, "dstack-main-train-0-") || len(m.Name) > 60 {
			t.Errorf("name %q", m.Name)
		}
		if m.Tags[backend.TagServer] != w.db.ServerID() || m.Tags[backend.TagIntent] != id || m.Tags[backend.TagFleet] != "train" {
			t.Errorf("tags %v", m.Tags)
		}
		if r.Instance().Ready() {
			t.Error("ready before it booted")
		}
		time.Sleep(time.Minute)
		if r := w.get(id); !r.Instance().Ready() || r.Instance().Hostname == "" {
			t.Errorf("not ready after a minute: %+v", r.Instance())
		}
		calls := w.cloud.Calls("Describe")
		time.Sleep(time.Hour)
		if n := w.cloud.Calls("Describe"); n != calls {
			t.Errorf("%d calls for an idle machine in an hour", n-calls)
		}
		w.release(id)
		time.Sleep(30 * time.Second)
		if r := w.want(id, ledger.Gone, 0); r.Doc.Outcome != ledger.Deleted || r.Refused() {
			t.Errorf("outcome %s, refused %v", r.Doc.Outcome, r.Refused())
		}
		w.billEqual()
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.changes < 4 {
			t.Errorf("the owner heard of %d changes", w.changes)
		}
	})
}

func TestRefusals(t *testing.T) {
	for name, tt := range map[string]struct {
		err  error
		want ledger.Outcome
	}{
		"no capacity": {fmt.Errorf("gpu.one in north: %w", backend.ErrNoCapacity), ledger.NoCapacity},
		"quota":       {backend.ErrQuota, ledger.NoQuota},
		"auth":        {backend.ErrAuth, ledger.AuthFailed},
		"invalid":     {&backend.InvalidError{Path: "zone", Msg: "no such zone"}, ledger.Invalid},
		"far limit":   {&backend.RateLimitedError{After: time.Hour}, ledger.RateLimited},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, plain, func(w *world) {
				w.cloud.Inject(fake.Fault{Op: "Create", Before: tt.err})
				id := w.intend()
				time.Sleep(time.Second)
				if r := w.want(id, ledger.Gone, 0); r.Doc.Outcome != tt.want || !r.Refused() || r.Message() == "" {
					t.Errorf("outcome %s (%q), refused %v, want %s", r.Doc.Outcome, r.Message(), r.Refused(), tt.want)
				}
				if n := w.cloud.Calls("Create"); n != 1 {
					t.Errorf("%d calls of Create, want 1", n)
				}
			})
		})
	}
}

func TestNearRateLimitIsWaitedFor(t *testing.T) {
	each(t, plain, func(w *world) {
		w.cloud.Inject(fake.Fault{Op: "Create", Nth: 1, Before: &backend.RateLimitedError{After: 7 * time.Second}})
		id := w.intend()
		time.Sleep(6 * time.Second)
		w.want(id, ledger.Intended, 0)
		time.Sleep(3 * time.Second)
		w.want(id, ledger.Created, 1)
	})
}

// TestFarRateLimitOfAQuestion has the provider, or what is in front of it, not be asked for an hour
// about a machine that boots meanwhile.
func TestFarRateLimitOfAQuestion(t *testing.T) {
	each(t, plain, func(w *world) {
		w.cloud.Inject(fake.Fault{Op: "Describe", Nth: 1, Before: &backend.RateLimitedError{After: time.Hour}})
		id := w.intend()
		time.Sleep(4 * time.Minute)
		if r := w.want(id, ledger.Created, 1); !r.Instance().Ready() {
			t.Errorf("a machine that runs is %+v", r.Instance())
		}
	})
}

// TestQueueOfBackendIsWaitedFor has the backend's own queue say more often and for longer to come
// back than a provider may.
func TestQueueOfBackendIsWaitedFor(t *testing.T) {
	each(t, plain, func(w *world) {
		w.cloud.Inject(fake.Fault{Op: "Create", Before: &backend.RateLimitedError{After: 3 * time.Minute, Queued: true}})
		id := w.intend()
		time.Sleep(time.Hour)
		if r := w.want(id, ledger.Intended, 0); !strings.Contains(r.Message(), "its turn") || r.Doc.Tries != 0 {
			t.Errorf("message %q, %d tries", r.Message(), r.Doc.Tries)
		}
		if n := w.cloud.Calls("Create"); n != 20 {
			t.Errorf("%d calls of Create, want 20", n)
		}
		w.release(id)
		settle()
		if r := w.want(id, ledger.Gone, 0); r.Doc.Outcome != ledger.Cancelled {
			t.Errorf("outcome %s", r.Doc.Outcome)
		}
	})
}

func TestLostCreateReply(t *testing.T) {
	c := plain
	c.ListLag = 20 * time.Second
	each(t, c, func(w *world) {
		w.cloud.Inject(fake.Fault{Op: "Create", Nth: 1, After: fake.ErrReset}) // created, reply lost
		id := w.intend()
		time.Sleep(10 * time.Second)
		w.want(id, ledger.Unknown, 1)
		time.Sleep(2 * time.Minute)
		w.want(id, ledger.Created, 1)
		if n := w.cloud.Calls("Create"); n != 1 {
			t.Errorf("%d calls of Create, want 1: what is unknown is looked up", n)
		}
		w.billEqual()
	})
}

func TestCreateThatNeverArrived(t *testing.T) {
	each(t, plain, func(w *world) {
		w.cloud.Inject(fake.Fault{Op: "Create", Nth: 1, Before: fake.ErrTimeout})
		id := w.intend()
		time.Sleep(50 * time.Second) // the settle time is a minute
		w.want(id, ledger.Unknown, 0)
		time.Sleep(40 * time.Second)
		if r := w.want(id, ledger.Gone, 0); r.Doc.Outcome != ledger.Lost || !r.Refused() {
			t.Errorf("outcome %s", r.Doc.Outcome)
		}
	})
}

// TestCrash kills the server inside each call, after its effect, and starts it again.
func TestCrash(t *testing.T) {
	for _, op := range []string{"Create", "Describe", "Terminate", "List"} {
		t.Run(op, func(t *testing.T) {
			each(t, plain, func(w *world) {
				if op == "List" {
					time.Sleep(time.Second) // the sweep at the start lists too
					w.cloud.Inject(fake.Fault{Op: "Create", Nth: 1, After: fake.ErrReset})
				}
				crashed := make(chan struct{})
				w.cloud.Inject(fake.Fault{Op: op, Nth: 1, Crash: func() { close(crashed) }})
				id := w.intend()
				if op == "Terminate" {
					time.Sleep(time.Minute)
					w.release(id)
				}
				<-crashed
				w.crash()
				time.Sleep(3 * time.Minute)
				if op != "Terminate" {
					if r := w.want(id, ledger.Created, 1); !r.Instance().Ready() {
						t.Errorf("not ready: %+v", r.Instance())
					}
					w.release(id)
					time.Sleep(time.Minute)
				}
				w.want(id, ledger.Gone, 0)
				if d := w.cloud.Doubles(); len(d) > 0 {
					t.Errorf("created twice: %v", d)
				}
				w.billEqual()
			})
		})
	}
}

// TestReleaseDuringCreate gives up the machine while the provider works on it.
func TestReleaseDuringCreate(t *testing.T) {
	c := plain
	c.Latency = 10 * time.Second
	for name, fault := range map[string]fake.Fault{
		"answered": {Op: "Offers"},
		"lost":     {Op: "Create", Nth: 1, After: fake.ErrReset},
		"refused":  {Op: "Create", Nth: 1, Before: backend.ErrNoCapacity},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, c, func(w *world) {
				w.cloud.Inject(fault)
				id := w.intend()
				time.Sleep(5 * time.Second)
				w.release(id)
				time.Sleep(3 * time.Minute)
				w.want(id, ledger.Gone, 0)
			})
		})
	}
}

func TestReleaseBeforeCreate(t *testing.T) {
	each(t, plain, func(w *world) {
		w.stop()
		id := w.intend()
		w.release(id)
		w.release(id) // again: no change
		w.restart()
		time.Sleep(time.Second)
		if r := w.want(id, ledger.Gone, 0); r.Doc.Outcome != ledger.Cancelled {
			t.Errorf("outcome %s", r.Doc.Outcome)
		}
		if n := w.cloud.Calls("Create"); n != 0 {
			t.Errorf("%d calls of Create", n)
		}
	})
}

// TestDeletionIsNeverGivenUp has the provider refuse to delete for hours.
func TestDeletionIsNeverGivenUp(t *testing.T) {
	each(t, plain, func(w *world) {
		id := w.intend()
		time.Sleep(time.Minute)
		w.cloud.Inject(fake.Fault{Op: "Terminate", Before: errors.New("internal error, try again")})
		w.release(id)
		time.Sleep(6 * time.Hour)
		w.want(id, ledger.Deleting, 1)
		debts, err := w.ledger.Debts(context.Background(), w.db.Read())
		if err != nil || len(debts) != 1 || debts[0].ID != id || debts[0].Price != 2.50 || !strings.Contains(debts[0].Message(), "try again") {
			t.Errorf("Debts = %+v, %v", debts, err)
		}
		if n := w.cloud.Calls("Terminate"); n < 36 || n > 60 {
			t.Errorf("%d attempts in 6 hours, want one in 10 minutes", n)
		}
		w.cloud.Heal()
		time.Sleep(15 * time.Minute)
		w.want(id, ledger.Gone, 0)
		w.billEqual()
		if debts, err := w.ledger.Debts(context.Background(), w.db.Read()); err != nil || len(debts) != 0 {
			t.Errorf("Debts = %+v, %v, want none", debts, err)
		}
	})
}

// TestEndedWhileDeletionIsRefused has a provider refuse every deletion, as one does whose credentials
// may not delete: what somebody ends by hand meanwhile is seen to be gone.
func TestEndedWhileDeletionIsRefused(t *testing.T) {
	each(t, plain, func(w *world) {
		id := w.intend()
		time.Sleep(time.Minute)
		w.cloud.Inject(fake.Fault{Op: "Terminate", Before: backend.ErrAuth})
		w.release(id)
		time.Sleep(time.Hour)
		if r := w.want(id, ledger.Deleting, 1); r.Message() != backend.ErrAuth.Error() {
			t.Errorf("message %q", r.Message())
		}
		w.cloud.Kill(w.cloud.Live()[0].ID)
		time.Sleep(25 * time.Minute) // two attempts
		if r := w.want(id, ledger.Gone, 0); r.Doc.Outcome != ledger.Deleted {
			t.Errorf("outcome %s", r.Doc.Outcome)
		}
	})
}

// TestDeletionIsAwaited has a provider take a minute to delete, while the owner says again and again
// that the machine is not wanted: the provider hears of it now and then.
func TestDeletionIsAwaited(t *testing.T) {
	c := plain
	c.Deletion = time.Minute
	each(t, c, func(w *world) {
		id := w.intend()
		time.Sleep(time.Minute)
		for range 300 {
			w.release(id)
			time.Sleep(100 * time.Millisecond)
		}
		w.want(id, ledger.Deleting, 1)
		if n := w.cloud.Calls("Terminate"); n < 2 || n > 12 {
			t.Errorf("the provider was asked %d times in half a minute", n)
		}
		time.Sleep(time.Minute)
		w.want(id, ledger.Gone, 0)
	})
}

// TestPreemption ends the machine from outside: the sweep finds it missing, or the owner
// asks because its host is silent.
func TestPreemption(t *testing.T) {
	for name, asked := range map[string]bool{"asked": true, "swept": false} {
		t.Run(name, func(t *testing.T) {
			each(t, plain, func(w *world) {
				id := w.intend()
				time.Sleep(10 * time.Minute)
				w.cloud.Kill(w.cloud.Live()[0].ID)
				wait := 7 * time.Minute
				if asked {
					w.write(func(tx *store.Tx) error { return w.ledger.Check(context.Background(), tx, id) })
					wait = 30 * time.Second
				}
				time.Sleep(wait)
				if r := w.want(id, ledger.Gone, 0); r.Doc.Outcome != ledger.Vanished || r.Refused() {
					t.Errorf("outcome %s", r.Doc.Outcome)
				}
			})
		})
	}
}

// TestStaleReads has the provider deny a living machine for a moment.
func TestStaleReads(t *testing.T) {
	each(t, plain, func(w *world) {
		id := w.intend()
		time.Sleep(time.Minute)
		w.cloud.Inject(fake.Fault{Op: "Describe", Nth: 1, Before: backend.ErrNotFound})
		w.write(func(tx *store.Tx) error { return w.ledger.Check(context.Background(), tx, id) })
		time.Sleep(time.Minute)
		w.want(id, ledger.Created, 1)
	})
}

// TestReadAfterWrite has the provider deny a new machine for longer than a stale read takes.
func TestReadAfterWrite(t *testing.T) {
	each(t, plain, func(w *world) {
		w.cloud.Inject(fake.Fault{Op: "Describe", Before: backend.ErrNotFound})
		id := w.intend()
		time.Sleep(45 * time.Second) // the settle time is a minute
		w.cloud.Heal()
		time.Sleep(time.Minute)
		if r := w.want(id, ledger.Created, 1); !r.Instance().Ready() {
			t.Errorf("not ready: %+v", r.Instance())
		}
	})
}

func TestFailedMachineWaitsForItsOwner(t *testing.T) {
	each(t, plain, func(w *world) {
		id := w.intend()
		time.Sleep(5 * time.Second)
		w.cloud.Break(w.cloud.Live()[0].ID, "no GPU on the host")
		time.Sleep(time.Minute)
		if r := w.want(id, ledger.Created, 1); r.Instance().State != backend.StateFailed || r.Message() != "no GPU on the host" {
			t.Errorf("instance %+v, message %q", r.Instance(), r.Message())
		}
	})
}

// TestLateArrival has a machine turn up after its intent was given up as lost.
func TestLateArrival(t *testing.T) {
	each(t, plain, func(w *world) {
		w.cloud.Inject(fake.Fault{Op: "Create", Nth: 1, Before: fake.ErrTimeout})
		id := w.intend()
		time.Sleep(2 * time.Minute)
		w.want(id, ledger.Gone, 0)
		w.cloud.Plant("north", 2.5, map[string]string{backend.TagServer: w.db.ServerID(), backend.TagIntent: id})
		time.Sleep(8 * time.Minute)
		w.want(id, ledger.Gone, 0)
		w.billEqual()
	})
}

// TestSilentAccount has an account not say what there is while hundreds of its intents are looked up:
// those of another one are carried out meanwhile, and its own when it answers again.
func TestSilentAccount(t *testing.T) {
	each(t, plain, func(w *world) {
		const many = 300
		for range many {
			w.cloud.Inject(fake.Fault{Op: "Create", Nth: 1, Before: fake.ErrReset})
		}
		w.cloud.Inject(fake.Fault{Op: "List", Crash: func() {}}) // no answer until the caller gives up
		for range many {
			w.intend()
		}
		time.Sleep(30 * time.Second)
		var other string
		w.write(func(tx *store.Tx) (err error) {
			other, err = w.ledger.Intend(context.Background(), tx, ledger.Intent{
				Kind: backend.InstanceResource, Backend: "fake", Region: "north", ProjectID: "another", Price: 2.50, Name: "other-0",
				Create: &backend.CreateRequest{Project: "another", Fleet: "other", Offer: h100()},
			})
			return err
		})
		time.Sleep(2 * time.Second)
		w.want(other, ledger.Created, 1)
		w.cloud.Heal()
		time.Sleep(15 * time.Minute)
		var n int
		if err := w.db.Read().QueryRowContext(context.Background(), `SELECT count(*) FROM intent WHERE state = 'gone'`).Scan(&n); err != nil || n != many {
			w.Errorf("%d of %d intents of which nothing was made are gone, %v", n, many, err)
		}
	})
}

// TestSilentCloud has a cloud say to none of four projects what there is while hundreds of intents are looked
// up: those of another cloud are carried out meanwhile.
func TestSilentCloud(t *testing.T) {
	each(t, plain, func(w *world) {
		const many = 80
		c := plain
		c.Offers = fake.SomeOffers()
		w.mu.Lock()
		w.other = fake.New(c)
		w.mu.Unlock()
		intend := func(project, name string) (id string) {
			w.Helper()
			w.write(func(tx *store.Tx) (err error) {
				id, err = w.ledger.Intend(context.Background(), tx, ledger.Intent{
					Kind: backend.InstanceResource, Backend: name, Region: "north", ProjectID: project, Price: 2.50, Name: "other-0",
					Create: &backend.CreateRequest{Project: project, Fleet: "other", Offer: h100()},
				})
				return err
			})
			return id
		}
		w.cloud.Inject(fake.Fault{Op: "Create", Before: fake.ErrReset})
		w.cloud.Inject(fake.Fault{Op: "List", Crash: func() {}}) // no answer until the caller gives up
		for range many {
			for _, project := range []string{"p", "q", "r", "s"} {
				intend(project, "fake")
			}
		}
		time.Sleep(30 * time.Second)
		id := intend("p", "other")
		time.Sleep(2 * time.Second)
		w.want(id, ledger.Created, 0)
		if n := len(w.other.Live()); n != 1 {
			w.Errorf("%d machines at the other cloud, want 1", n)
		}
		w.cloud.Heal()
		time.Sleep(20 * time.Minute)
		var n int
		if err := w.db.Read().QueryRowContext(context.Background(), `SELECT count(*) FROM intent WHERE state = 'gone'`).Scan(&n); err != nil || n != 4*many {
			w.Errorf("%d of %d intents of which nothing was made are gone, %v", n, 4*many, err)
		}
	})
}

// TestListThatHangs has an account not say what there is while more of its intents are looked up than
// there are workers: they hear together that it does not, and others are carried out then.
func TestListThatHangs(t *testing.T) {
	each(t, plain, func(w *world) {
		const many = 100
		for range many {
			w.cloud.Inject(fake.Fault{Op: "Create", Nth: 1, Before: fake.ErrReset})
		}
		w.cloud.Inject(fake.Fault{Op: "List", Crash: func() {}}) // no answer until the caller gives up
		for range many {
			w.intend()
		}
		time.Sleep(10 * time.Second)
		id := w.intend()
		time.Sleep(3 * time.Minute)
		w.want(id, ledger.Created, 1)
	})
}

func TestBackendThatCannotBeOpened(t *testing.T) {
	each(t, plain, func(w *world) {
		created := w.intend()
		time.Sleep(time.Minute)
		w.breakBackend(errors.New("config.yml: no such file"))
		fresh := w.intend()
		w.release(created)
		time.Sleep(10 * time.Minute)
		if r := w.want(fresh, ledger.Gone, 1); !r.Refused() || !strings.Contains(r.Message(), "config.yml") {
			t.Errorf("refused %v: %q", r.Refused(), r.Message())
		}
		w.want(created, ledger.Deleting, 1)
		w.breakBackend(nil)
		time.Sleep(5 * time.Minute)
		w.want(created, ledger.Gone, 0)
	})
}

// TestTwoServers starts a second server in the middle of a create whose answer is late; the
// first one, fenced, cannot store what it hears. The machine is found all the same.
func TestTwoServers(t *testing.T) {
	each(t, plain, func(w *world) {
		asked := make(chan struct{})
		w.cloud.Inject(fake.Fault{Op: "Create", Nth: 1, Crash: func() { close(asked) }}) // done, no answer until the caller gives up
		id := w.intend()
		<-asked
		if r := w.get(id); r.State != ledger.Unknown {
			t.Errorf("intent is %s while the first server waits, want unknown", r.State)
		}
		stopFirst := w.overtake()
		time.Sleep(5 * time.Minute) // the second looks, the first gives up
		w.want(id, ledger.Created, 1)
		if d := w.cloud.Doubles(); len(d) > 0 {
			t.Errorf("created twice: %v", d)
		}
		stopFirst()
	})
}

// TestChaos runs random lives under random faults. Once the faults stop, everything wanted
// exists once, everything else is gone, and the books are right.
func TestChaos(t *testing.T) {
	for seed := range uint64(15) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			path := storetest.Path(t)
			synctest.Test(t, func(t *testing.T) { chaos(t, storetest.Open(t, path), seed) })
		})
	}
}

func TestChaosPostgres(t *testing.T) {
	url := storetest.PostgresURL(t)
	synctest.Test(t, func(t *testing.T) { chaos(t, storetest.Open(t, url), 1) })
}
