package ledger_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"dstack/internal/backend"
	"dstack/internal/backend/fake"
	"dstack/internal/ledger"
)

// TestSweep plants machines that no intent explains, and foreign ones.
func TestSweep(t *testing.T) {
	each(t, plain, func(w *world) {
		id := w.intend()
		time.Sleep(time.Minute)
		own := map[string]string{backend.TagServer: w.db.ServerID()}
		w.cloud.Plant("north", 1, own)
		w.cloud.Plant("south", 1, map[string]string{backend.TagServer: w.db.ServerID(), backend.TagIntent: "11111111-2222-4333-8444-555555555555"})
		w.cloud.Plant("north", 1, map[string]string{backend.TagServer: w.db.ServerID(), backend.TagIntent: id}) // a double
		foreign := []string{
			w.cloud.Plant("north", 1, nil),
			w.cloud.Plant("north", 1, map[string]string{backend.TagServer: "another-server", backend.TagIntent: id}),
			w.cloud.Plant("north", 1, map[string]string{backend.TagIntent: id}),
		}
		w.live(7)
		time.Sleep(10 * time.Minute)
		w.want(id, ledger.Created, 4)
		for _, f := range foreign {
			found := false
			for _, m := range w.cloud.Live() {
				found = found || m.ID == f
			}
			if !found {
				t.Errorf("foreign machine %s was touched", f)
			}
		}
		w.billEqual()
	})
}

// delay has lists be answered late.
func (w *world) delay(by time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.late = by
}

// TestLateList has the answer to a list take longer than what is created takes to turn up: what it lacks may
// have turned up meanwhile.
func TestLateList(t *testing.T) {
	c := plain
	c.ListLag = 20 * time.Second // it settles in 100 s
	each(t, c, func(w *world) {
		time.Sleep(time.Minute)
		w.delay(110 * time.Second)
		w.cloud.Inject(fake.Fault{Op: "Create", Nth: 1, After: fake.ErrReset})
		id := w.intend()
		time.Sleep(2 * time.Minute)
		w.want(id, ledger.Unknown, 1)
		time.Sleep(3 * time.Minute)
		w.want(id, ledger.Created, 1)
		w.billEqual()
	})
}

// TestSweepOfWhatEnds has a machine end while a sweep waits for the list that still shows it.
func TestSweepOfWhatEnds(t *testing.T) {
	c := plain
	c.Settle = time.Nanosecond
	each(t, c, func(w *world) {
		id := w.intend()
		time.Sleep(2 * time.Minute)
		w.delay(time.Minute)
		w.ledger.Sweep(ledger.Account{ProjectID: "p", Backend: "fake"})
		time.Sleep(time.Second)
		w.release(id)
		time.Sleep(40 * time.Second)
		ended := w.want(id, ledger.Gone, 0).Doc.GoneAt
		time.Sleep(10 * time.Minute)
		if r := w.want(id, ledger.Gone, 0); !r.Doc.GoneAt.Equal(ended) {
			t.Errorf("it has ended at %v, and again at %v", ended, r.Doc.GoneAt)
		}
	})
}

// TestSweepOfDouble has a second machine of an intent live on when the intent and its own have ended: it has
// one record, and what the first cost stays known. It may have been found before that, or after.
func TestSweepOfDouble(t *testing.T) {
	for name, early := range map[string]bool{"found before": true, "found after": false} {
		t.Run(name, func(t *testing.T) {
			each(t, plain, func(w *world) {
				id := w.intend()
				time.Sleep(time.Hour)
				first := w.cloud.Live()[0].ID
				w.cloud.Inject(fake.Fault{Op: "Terminate", Before: errors.New("internal error, try again")})
				plant := func() {
					w.cloud.Plant("north", 1, map[string]string{backend.TagServer: w.db.ServerID(), backend.TagIntent: id})
				}
				if early {
					plant()
					time.Sleep(10 * time.Minute)
				}
				w.release(id)
				w.cloud.Kill(first)
				time.Sleep(5 * time.Minute)
				from := w.get(id).BilledFrom
				if !early {
					plant()
				}
				time.Sleep(time.Hour)
				w.live(1)
				w.cloud.Heal()
				time.Sleep(20 * time.Minute)
				if r := w.want(id, ledger.Gone, 0); r.Instance().Ref.ID != first || !r.BilledFrom.Equal(from) {
					t.Errorf("the intent has %s, billed from %v, want %s from %v", r.Instance().Ref.ID, r.BilledFrom, first, from)
				}
				var records int
				if err := w.db.Read().QueryRowContext(context.Background(), `SELECT count(*) FROM intent`).Scan(&records); err != nil || records != 2 {
					t.Errorf("%d records of two machines, %v", records, err)
				}
				w.billEqual()
			})
		})
	}
}

// TestSweepOfWrongTag has a machine that is wanted be listed with the tag of an intent that has ended, with
// another machine or without: it lives on.
func TestSweepOfWrongTag(t *testing.T) {
	for name, lost := range map[string]bool{"had another": false, "never had any": true} {
		t.Run(name, func(t *testing.T) {
			each(t, plain, func(w *world) {
				if lost {
					w.cloud.Inject(fake.Fault{Op: "Create", Nth: 1, Before: fake.ErrTimeout})
				}
				ended := w.intend()
				time.Sleep(time.Minute)
				w.release(ended)
				time.Sleep(5 * time.Minute)
				w.want(ended, ledger.Gone, 0)
				id := w.intend()
				time.Sleep(time.Minute)
				w.mu.Lock()
				w.tags = map[string]string{w.cloud.Live()[0].ID: ended}
				w.mu.Unlock()
				time.Sleep(20 * time.Minute)
				w.want(id, ledger.Created, 1)
				w.want(ended, ledger.Gone, 1)
				w.billEqual()
			})
		})
	}
}

// TestSweepKnowsWhatItFound has one record, and one cost, of a machine that nobody explains and
// that cannot be deleted.
func TestSweepKnowsWhatItFound(t *testing.T) {
	each(t, plain, func(w *world) {
		w.cloud.Inject(fake.Fault{Op: "Terminate", Before: fake.ErrTimeout})
		w.cloud.Plant("north", 1, map[string]string{backend.TagServer: w.db.ServerID(), backend.TagIntent: "lost"})
		time.Sleep(3 * time.Hour)
		debts, err := w.ledger.Debts(context.Background(), w.db.Read())
		if err != nil || len(debts) != 1 {
			t.Errorf("%d debts for one machine, %v: %+v", len(debts), err, debts)
		}
		w.billEqual()
	})
}

// TestSweepKnowsNames sweeps while an intent is unknown whose machine shows its name alone.
func TestSweepKnowsNames(t *testing.T) {
	each(t, plain, func(w *world) {
		w.mu.Lock()
		w.bare = true
		w.mu.Unlock()
		w.cloud.Inject(fake.Fault{Op: "Create", Nth: 1, After: fake.ErrReset})
		id := w.intend()
		time.Sleep(500 * time.Millisecond)
		w.want(id, ledger.Unknown, 1)
		w.ledger.Sweep(ledger.Account{ProjectID: "p", Backend: "fake"})
		time.Sleep(10 * time.Minute)
		if r := w.want(id, ledger.Created, 1); !r.Instance().Ready() {
			t.Errorf("not ready: %+v", r.Instance())
		}
	})
}
