package ledger_test

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"dstack/internal/backend/fake"
	"dstack/internal/ledger"
	"dstack/internal/store"
)

// inspected is what an inspection finds of an intent.
func (w *world) inspected(id string) ledger.Found {
	w.Helper()
	found, err := w.ledger.Inspect(context.Background(), w.db.Read())
	if err != nil {
		w.Fatal(err)
	}
	for _, f := range found.Found {
		if f.ID == id {
			return f
		}
	}
	w.Fatalf("intent %s is not found", id)
	return ledger.Found{}
}

// forget has the ledger forget what was found.
func (w *world) forget(f ledger.Found) error {
	return w.db.Write(context.Background(), func(tx *store.Tx) error { return w.ledger.Forget(context.Background(), tx, f) })
}

// TestForget gives up machines of an account whose credentials are lost, one of which lives: the
// bill ends when they were no longer shown, and what comes back with its account is deleted.
func TestForget(t *testing.T) {
	c := plain
	c.ID = "first"
	each(t, c, func(w *world) {
		ended, lives := w.intend(), w.intend()
		time.Sleep(time.Hour)
		if err := w.forget(w.inspected(ended)); err == nil {
			t.Error("a machine that its account shows was forgotten")
		}
		w.want(ended, ledger.Created, 2)

		first, left := w.cloud, time.Now()
		first.Kill(w.get(ended).Instance().Ref.ID)
		w.change(fake.New(fake.Config{ID: "second", Offers: fake.SomeOffers()}))
		w.release(ended)
		time.Sleep(10 * time.Hour)
		stale := w.inspected(ended)
		w.write(func(tx *store.Tx) error {
			_, err := tx.ExecContext(context.Background(), `UPDATE intent SET version = version + 1 WHERE id = $1`, ended)
			return err
		})
		if err := w.forget(stale); !errors.Is(err, store.ErrConflict) {
			t.Errorf("forget what has changed = %v, want a conflict", err)
		}
		for _, id := range []string{ended, lives} {
			if err := w.forget(w.inspected(id)); err != nil {
				t.Fatal(err)
			}
			r := w.want(id, ledger.Gone, 0)
			if late := r.BilledTo.Sub(left); r.Doc.Outcome != ledger.Forgotten || late < 0 || late > 5*time.Minute {
				t.Errorf("outcome %s, billed until %v after the change", r.Doc.Outcome, late)
			}
		}
		time.Sleep(time.Hour)
		w.want(ended, ledger.Gone, 0)

		w.change(first)
		time.Sleep(time.Hour)
		w.want(ended, ledger.Gone, 0)
		w.want(lives, ledger.Gone, 0)
	})
}

// TestForgetWhatIsWanted has a backend that does not answer, maybe for a moment: a machine that is wanted is not to
// be forgotten, and one that has to be ended only when that takes long.
func TestForgetWhatIsWanted(t *testing.T) {
	each(t, plain, func(w *world) {
		runs, ended := w.intend(), w.intend()
		time.Sleep(time.Hour)
		for _, op := range []string{"List", "Describe", "Terminate"} {
			w.cloud.Inject(fake.Fault{Op: op, Before: fake.ErrTimeout})
		}
		w.release(ended)
		time.Sleep(5 * time.Minute)
		for _, id := range []string{runs, ended} {
			if f := w.inspected(id); f.Forgettable || w.forget(f) == nil {
				t.Errorf("one that is %s can be forgotten, five minutes after its backend failed", f.State)
			}
		}
		time.Sleep(10 * time.Minute)
		if w.inspected(runs).Forgettable {
			t.Error("one that is wanted can be forgotten because its backend does not answer")
		}
		if err := w.forget(w.inspected(ended)); err != nil {
			t.Error(err)
		}
		w.want(runs, ledger.Created, 2)
		w.want(ended, ledger.Gone, 2)

		w.cloud.Heal()
		time.Sleep(20 * time.Minute) // a sweep finds what was forgotten, and deletes it
		w.want(runs, ledger.Created, 1)
		w.want(ended, ledger.Gone, 1)
	})
}

// TestForgetAstrayUnasked has another account's credentials that do not answer any more: perhaps the right ones are
// back, and only that is not known yet.
func TestForgetAstrayUnasked(t *testing.T) {
	c := plain
	c.ID = "first"
	each(t, c, func(w *world) {
		id := w.intend()
		time.Sleep(time.Hour)
		w.change(fake.New(fake.Config{ID: "second", Offers: fake.SomeOffers()}))
		time.Sleep(time.Hour)
		if !w.inspected(id).Forgettable {
			t.Error("what the present account does not know cannot be forgotten")
		}
		w.cloud.Inject(fake.Fault{Op: "List", Before: fake.ErrTimeout})
		time.Sleep(time.Second)
		if f := w.inspected(id); f.Forgettable || !f.Astray() {
			t.Errorf("when its account does not answer it can be forgotten: %v, astray: %v", f.Forgettable, f.Astray())
		}
	})
}

// TestForgetUnreachable gives up a machine whose backend is not configured any more.
func TestForgetUnreachable(t *testing.T) {
	each(t, plain, func(w *world) {
		id := w.intend()
		time.Sleep(time.Hour)
		w.breakBackend(errors.New("no such backend"))
		w.release(id)
		time.Sleep(time.Hour)
		if err := w.forget(w.inspected(id)); err != nil {
			t.Fatal(err)
		}
		r := w.want(id, ledger.Gone, 1)
		if hours := r.BilledTo.Sub(r.BilledFrom).Hours(); math.Abs(hours-2) > 0.1 {
			t.Errorf("billed for %v hours, want 2", hours)
		}
	})
}
