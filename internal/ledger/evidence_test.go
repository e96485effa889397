package ledger_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"dstack/internal/backend"
	"dstack/internal/backend/fake"
	"dstack/internal/ledger"
	"dstack/internal/store"
)

// TestForeignAnswer has the provider answer a Create with a stranger's machine, which is never
// taken for ours nor ended: not when it is all that there is, not when ours was made too, and not
// when it is unwanted before anybody looked.
func TestForeignAnswer(t *testing.T) {
	for name, tt := range map[string]struct {
		unmade, released bool
		want             ledger.State
		outcome          ledger.Outcome
	}{
		"nothing was made":           {unmade: true, want: ledger.Gone, outcome: ledger.Lost},
		"ours was made":              {want: ledger.Created},
		"nothing was made, released": {unmade: true, released: true, want: ledger.Gone, outcome: ledger.Lost},
		"ours was made, released":    {released: true, want: ledger.Gone, outcome: ledger.Deleted},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, plain, func(w *world) {
				stranger := w.cloud.Plant("north", 9, map[string]string{"owner": "somebody else"})
				w.cloud.Inject(fake.Fault{Op: "Create", Nth: 1, Instead: stranger, Unmade: tt.unmade})
				time.Sleep(time.Minute) // the stranger's has booted
				id := w.intend()
				for range 40 {
					r := w.get(id)
					if strings.HasPrefix(r.Instance().Hostname, stranger) {
						t.Fatalf("the stranger's machine is used: %+v", r.Instance())
					}
					if tt.released && r.State != ledger.Intended { // before, nothing would be asked for
						w.release(id)
					}
					time.Sleep(100 * time.Millisecond)
				}
				time.Sleep(10 * time.Minute)
				live := 1
				if tt.want == ledger.Created {
					live = 2
				}
				r := w.want(id, tt.want, live)
				if r.Doc.Outcome != tt.outcome || r.Instance().Ref.ID == stranger {
					t.Errorf("outcome %s, resource %s, want %s and not the stranger's", r.Doc.Outcome, r.Instance().Ref.ID, tt.outcome)
				}
				if tt.unmade && (!r.Refused() || !strings.Contains(r.Message(), "not marked as ours")) {
					t.Errorf("refused %v, message %q", r.Refused(), r.Message())
				}
				if w.cloud.Live()[0].ID != stranger {
					t.Error("the stranger's machine was ended")
				}
				w.billEqual()
			})
		})
	}
}

// TestOtherAccount changes the backend's credentials to those of another account while a
// machine lives, one is asked for and one is being deleted: nothing is believed to be gone
// before the first account says so.
func TestOtherAccount(t *testing.T) {
	c := plain
	c.ID = "first"
	each(t, c, func(w *world) {
		kept, dropped := w.intend(), w.intend()
		time.Sleep(time.Minute)
		w.cloud.Inject(fake.Fault{Op: "Create", Nth: 1, After: fake.ErrReset})
		w.cloud.Inject(fake.Fault{Op: "List", Nth: 1, Before: fake.ErrReset})
		unknown := w.intend()
		time.Sleep(time.Second)
		w.want(unknown, ledger.Unknown, 3)

		first := w.cloud
		w.change(fake.New(fake.Config{ID: "second", Offers: fake.SomeOffers()}))
		w.release(dropped)
		w.write(func(tx *store.Tx) error { return w.ledger.Check(context.Background(), tx, kept) })
		time.Sleep(time.Hour)
		for id, want := range map[string]ledger.State{kept: ledger.Created, dropped: ledger.Deleting, unknown: ledger.Unknown} {
			if r := w.get(id); r.State != want || !r.Astray() || !strings.Contains(r.Message(), "another account") {
				t.Errorf("with another account an intent is %s (%s), message %q; want %s", r.State, r.Doc.Outcome, r.Message(), want)
			}
		}
		found, err := w.ledger.Inspect(context.Background(), w.db.Read())
		if err != nil || len(found.Found) != 3 {
			t.Fatalf("Inspect = %+v, %v, want three resources", found.Found, err)
		}
		for _, f := range found.Found {
			if f.Verdict != ledger.Unconfirmed {
				t.Errorf("intent %s is %s, want %s", f.ID, f.Verdict, ledger.Unconfirmed)
			}
		}

		w.change(first)
		time.Sleep(time.Hour)
		w.want(dropped, ledger.Gone, 2)
		for _, id := range []string{kept, unknown} {
			if r := w.get(id); r.State != ledger.Created || r.Message() != "" {
				t.Errorf("with the first account again an intent is %s, message %q", r.State, r.Message())
			}
		}
		w.billEqual()
	})
}

// TestNewKeyOfAccount changes the credentials within one account while one machine lives, is
// shown, and another ends: the one that is shown proves that it is the same account.
func TestNewKeyOfAccount(t *testing.T) {
	each(t, plain, func(w *world) {
		w.rekey("old key")
		kept, ended := w.intend(), w.intend()
		time.Sleep(time.Minute)
		w.cloud.Kill(w.get(ended).Instance().Ref.ID)
		w.rekey("new key")
		time.Sleep(10 * time.Minute)
		if r := w.want(ended, ledger.Gone, 1); r.Doc.Outcome != ledger.Vanished {
			t.Errorf("outcome %s", r.Doc.Outcome)
		}
		if r := w.want(kept, ledger.Created, 1); !slices.Equal(r.Doc.Accounts, []string{"old key", "new key"}) {
			t.Errorf("accounts %q", r.Doc.Accounts)
		}
		w.release(kept)
		time.Sleep(time.Minute)
		w.want(kept, ledger.Gone, 0)
	})
}

// TestRestoredAccount puts the first credentials back when a deletion waits for them, whose
// machine has ended meanwhile: it is looked at now.
func TestRestoredAccount(t *testing.T) {
	c := plain
	c.ID = "first"
	each(t, c, func(w *world) {
		id, asked := w.intend(), w.intend()
		time.Sleep(time.Minute)
		first := w.cloud
		w.change(fake.New(fake.Config{ID: "second", Offers: fake.SomeOffers()}))
		w.release(id)
		time.Sleep(time.Minute)
		if r := w.want(id, ledger.Deleting, 0); !r.Astray() {
			t.Errorf("with another account: %q", r.Message())
		}
		first.Kill(w.get(id).Instance().Ref.ID)
		w.change(first)
		time.Sleep(30 * time.Second)
		w.want(id, ledger.Gone, 1)
		w.want(asked, ledger.Created, 1)
	})
}

// TestCover asks whether credentials may take the place of others.
func TestCover(t *testing.T) {
	c := plain
	c.ID = "old key"
	each(t, c, func(w *world) {
		a := ledger.Account{ProjectID: "p", Backend: "fake"}
		other := fake.New(fake.Config{ID: "other account", Offers: fake.SomeOffers()})
		missed := func(b backend.Backend) int {
			w.Helper()
			cover, err := w.ledger.Cover(context.Background(), a, b)
			if err != nil {
				w.Fatal(err)
			}
			list, err := cover.Missed(context.Background(), w.db.Read())
			if err != nil {
				w.Fatal(err)
			}
			return len(list)
		}
		if n := missed(other); n != 0 {
			t.Errorf("%d resources are missed where there are none", n)
		}
		id := w.intend()
		time.Sleep(time.Minute)
		if n := missed(keyed{w.cloud, "old key"}); n != 0 {
			t.Errorf("%d are missed by the same credentials", n)
		}
		if n := missed(other); n != 1 {
			t.Errorf("%d are missed by another account, want 1", n)
		}
		if n := missed(keyed{w.cloud, "new key"}); n != 0 {
			t.Errorf("%d are missed by another key of the account", n)
		}
		w.release(id)
		time.Sleep(time.Minute)
		if n := missed(other); n != 0 {
			t.Errorf("%d are missed after the end", n)
		}

		id = w.intend()
		time.Sleep(time.Minute)
		first := w.cloud
		w.change(other) // what is made from now on is in another account than the first
		w.intend()
		time.Sleep(time.Minute)
		for name, b := range map[string]backend.Backend{
			"the first account": keyed{first, "new key"}, "the second account": keyed{other, "newer key"},
		} {
			if n := missed(b); n != 1 {
				t.Errorf("%d of two accounts are missed by another key of %s, want 1", n, name)
			}
		}
		first.Kill(w.get(id).Instance().Ref.ID)
		w.change(first)
		kept := w.intend()
		time.Sleep(10 * time.Minute)
		w.want(kept, ledger.Created, 1)
		if n := missed(keyed{first, "newest key"}); n != 1 {
			t.Errorf("%d are missed when one of the account has ended, want the other account's", n)
		}
	})
}

// TestEditedRef has somebody write another resource into an intent whose machine runs: what it names then
// is asked for before anything is done about it, and is neither used nor ended, while ours is found by its
// mark and ends.
func TestEditedRef(t *testing.T) {
	const name = `UPDATE intent SET doc = replace(doc, $2, $3), version = version + 1 WHERE id = $1 AND $4 <> ''`
	for what, edit := range map[string]string{
		"the document":                name,
		"the document and the column": `UPDATE intent SET doc = replace(doc, $2, $3), resource_id = $3, version = version + 1 WHERE id = $1 AND $4 <> ''`,
		"nothing that exists":         `UPDATE intent SET doc = replace(doc, $2, '"nothing"'), version = version + 1 WHERE id = $1 AND $3 <> '' AND $4 <> ''`,
		"what another intent has":     `UPDATE intent SET doc = (SELECT doc FROM intent WHERE id = $4), version = version + 1 WHERE id = $1 AND $2 <> '' AND $3 <> ''`,
		"a row of an older server":    `UPDATE intent SET doc = replace(replace(doc, $2, $3), '"proof"', '"unknown"'), version = version + 1 WHERE id = $1 AND $4 <> ''`,
	} {
		for _, released := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, released %v", what, released), func(t *testing.T) {
				each(t, plain, func(w *world) {
					stranger := w.cloud.Plant("north", 9, map[string]string{"owner": "somebody else"})
					id, other := w.intend(), w.intend()
					time.Sleep(time.Minute)
					own, others := w.get(id).Instance().Ref.ID, w.get(other).Instance().Ref.ID
					w.write(func(tx *store.Tx) error {
						return store.Guarded(tx.ExecContext(context.Background(), edit, id, `"`+own+`"`, `"`+stranger+`"`, other))
					})
					if r := w.get(id); r.Instance().Ref.ID == own {
						t.Fatalf("the edit changes nothing: %+v", r.Doc.Instance)
					}
					if released {
						w.release(id)
					}
					time.Sleep(20 * time.Minute)
					want := map[string]bool{stranger: true, others: true, own: !released}
					for _, m := range w.cloud.Live() {
						if !want[m.ID] {
							t.Errorf("machine %s is left", m.ID)
						}
						delete(want, m.ID)
					}
					delete(want, map[bool]string{true: own}[released])
					if len(want) > 0 {
						t.Errorf("ended, or never seen again: %v (ours is %s, the stranger's %s)", want, own, stranger)
					}
					if r := w.get(id); !released && (r.State != ledger.Created || r.Instance().Ref.ID != own || r.Message() != "") {
						t.Errorf("the intent is %s with %s, %q, want created with %s", r.State, r.Instance().Ref.ID, r.Message(), own)
					} else if released && (r.State != ledger.Gone || r.Doc.Outcome != ledger.Deleted) {
						t.Errorf("the intent is %s (%s, %q), want gone and deleted", r.State, r.Doc.Outcome, r.Message())
					}
					w.billEqual()
				})
			})
		}
	}
}
