package ledger_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"dstack/internal/backend"
	"dstack/internal/backend/fake"
	"dstack/internal/ledger"
	"dstack/internal/store"
)

// TestInspect looks at a healthy machine, one that nobody explains, one whose deletion is
// refused for long, and an account that does not answer. A foreign machine is not shown.
func TestInspect(t *testing.T) {
	each(t, plain, func(w *world) {
		verdicts := func() (list []string) {
			w.Helper()
			found, err := w.ledger.Inspect(context.Background(), w.db.Read())
			if err != nil {
				w.Fatal(err)
			}
			for _, f := range found.Found {
				text := string(f.Verdict)
				if f.Debt {
					text += " debt"
				}
				list = append(list, text)
			}
			for _, a := range found.Accounts {
				if p := a.Problem(); p != "" {
					list = append(list, p)
				}
			}
			slices.Sort(list)
			return list
		}
		want := func(want ...string) {
			w.Helper()
			if got := verdicts(); !slices.Equal(got, want) {
				w.Errorf("found %q, want %q", got, want)
			}
		}
		want()
		kept := w.intend()
		time.Sleep(time.Minute)
		want("confirmed")

		w.cloud.Plant("north", 1, map[string]string{"owner": "somebody else"})
		want("confirmed")
		w.cloud.Plant("north", 1, map[string]string{backend.TagServer: w.db.ServerID(), backend.TagIntent: "lost"})
		want("confirmed", "unexplained debt")
		time.Sleep(10 * time.Minute) // a sweep deletes it
		want("confirmed")

		w.cloud.Plant("north", 1, map[string]string{backend.TagServer: w.db.ServerID(), backend.TagIntent: "lost too"})
		w.cloud.Inject(fake.Fault{Op: "Terminate", Before: fake.ErrTimeout})
		time.Sleep(6 * time.Minute) // a sweep records it
		want("confirmed", "ending")
		w.cloud.Heal()
		time.Sleep(20 * time.Minute)
		want("confirmed")

		w.breakBackend(errors.New("no route to the cloud"))
		w.release(kept)
		time.Sleep(time.Minute)
		want("ending", "no route to the cloud")
		time.Sleep(time.Hour)
		want("ending debt", "no route to the cloud")
		w.breakBackend(nil)
		time.Sleep(time.Hour)
		want()
		w.want(kept, ledger.Gone, 1) // the foreign one lives
	})
}

// TestInspectOtherAccount looks right after the credentials were changed to those of another
// account: a machine of a minute ago is not expected to be listed by it.
func TestInspectOtherAccount(t *testing.T) {
	c := plain
	c.ID, c.ListLag = "first", 30*time.Second
	each(t, c, func(w *world) {
		verdict := func() ledger.Verdict {
			w.Helper()
			found, err := w.ledger.Inspect(context.Background(), w.db.Read())
			if err != nil || len(found.Found) != 1 {
				w.Fatalf("Inspect = %+v, %v, want one resource", found.Found, err)
			}
			return found.Found[0].Verdict
		}
		w.intend()
		time.Sleep(10 * time.Second)
		if v := verdict(); v != ledger.Expected {
			t.Errorf("before it is listed it is %s", v)
		}
		time.Sleep(30 * time.Second)
		if v := verdict(); v != ledger.Confirmed {
			t.Errorf("when it is listed it is %s", v)
		}
		w.mu.Lock()
		w.cloud, w.key = fake.New(fake.Config{ID: "second"}), "second" // no sweep yet
		w.mu.Unlock()
		if v := verdict(); v != ledger.Unconfirmed {
			t.Errorf("with another account it is %s", v)
		}
	})
}

// TestInspectBrokenRow has one row that cannot be read: it is shown with what can, and the others.
func TestInspectBrokenRow(t *testing.T) {
	for _, doc := range []string{"{bad", "{}"} {
		t.Run(doc, func(t *testing.T) { inspectBroken(t, doc) })
	}
}

func inspectBroken(t *testing.T, doc string) {
	each(t, plain, func(w *world) {
		w.intend()
		broken := w.intend()
		time.Sleep(time.Minute)
		resource := w.get(broken).Instance().Ref.ID
		w.write(func(tx *store.Tx) error {
			_, err := tx.ExecContext(context.Background(), `UPDATE intent SET doc = $2 WHERE id = $1`, broken, doc)
			return err
		})
		found, err := w.ledger.Inspect(context.Background(), w.db.Read())
		if err != nil || len(found.Found) != 2 {
			t.Fatalf("Inspect = %d, %v, want two", len(found.Found), err)
		}
		for _, f := range found.Found {
			switch {
			case f.ID != broken && f.Verdict != ledger.Confirmed:
				t.Errorf("the other is %s", f.Verdict)
			case f.ID == broken && (f.Verdict != ledger.Broken || f.Instance().Ref.ID != resource || f.Price != 2.50 || !strings.Contains(f.Message(), broken)):
				t.Errorf("the broken one: %s, %s, $%v, %q", f.Verdict, f.Instance().Ref.ID, f.Price, f.Message())
			}
		}
		time.Sleep(10 * time.Minute) // a sweep sees what it is
		if r := w.want(broken, ledger.Created, 2); !r.Instance().Ready() || r.Message() != "" {
			t.Errorf("after a sweep: %+v, %q", r.Instance(), r.Message())
		}
	})
}
