package ledger_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"dstack/internal/backend"
	"dstack/internal/backend/fake"
	"dstack/internal/ledger"
)

// blurred is a cloud whose list has rows that cannot be read, of the machines of some names or of none.
type blurred struct {
	keyed
	names []string
}

// List implements backend.Backend.
func (b blurred) List(ctx context.Context, serverID string) ([]backend.Owned, error) {
	owned, err := b.keyed.List(ctx, serverID)
	if err != nil {
		return nil, err
	}
	owned = slices.DeleteFunc(owned, func(o backend.Owned) bool {
		return slices.ContainsFunc(b.names, func(name string) bool { return strings.Contains(o.Name, name) })
	})
	return owned, &backend.UnreadError{Rows: []string{"a row is 7"}, Hidden: true}
}

// TestUnreadRows has an account list what cannot be read. What it does list is adopted, swept and confirmed; that
// the reply to a Create was lost, and its machine is not listed, says nothing until all can be read.
func TestUnreadRows(t *testing.T) {
	each(t, plain, func(w *world) {
		w.blur("train", true)
		kept := w.intend()
		time.Sleep(time.Minute)
		w.cloud.Inject(fake.Fault{Op: "Create", Nth: 1, After: fake.ErrReset})
		lost := w.intend()
		w.cloud.Plant("north", 1, map[string]string{backend.TagServer: w.db.ServerID()}) // nobody's
		time.Sleep(time.Hour)
		w.want(kept, ledger.Created, 2)
		w.want(lost, ledger.Unknown, 2)

		found, err := w.ledger.Inspect(context.Background(), w.db.Read())
		if err != nil || len(found.Accounts) != 1 || found.Accounts[0].Problem() != "" || found.Accounts[0].Unread == nil {
			t.Fatalf("Inspect = %+v, %v, want to be told of rows", found.Accounts, err)
		}
		for _, f := range found.Found {
			if f.Verdict != ledger.Unconfirmed || f.Forgettable != (f.ID == lost) { // it is in debt, and nobody can be asked
				t.Errorf("intent %s is %s, forgettable %v", f.ID, f.Verdict, f.Forgettable)
			}
		}
		w.release(kept)
		time.Sleep(time.Minute)
		w.want(kept, ledger.Gone, 1)

		w.blur("", true) // another's row now
		time.Sleep(10 * time.Minute)
		w.want(lost, ledger.Created, 1)
		w.release(lost)
		time.Sleep(time.Minute)
		w.want(lost, ledger.Gone, 0)
		w.billEqual()
	})
}

// TestUnreadRowsAfterNothing has the request of a Create be lost, and not only its answer: the intent ends
// when all can be read.
func TestUnreadRowsAfterNothing(t *testing.T) {
	each(t, plain, func(w *world) {
		w.blur("", true)
		w.cloud.Inject(fake.Fault{Op: "Create", Nth: 1, Before: fake.ErrReset})
		id := w.intend()
		time.Sleep(time.Hour)
		w.want(id, ledger.Unknown, 0)
		w.blur("", false)
		time.Sleep(10 * time.Minute)
		w.want(id, ledger.Gone, 0)
	})
}

// blur has a row of the list be unreadable, or rows of the machines whose names have a text.
func (w *world) blur(name string, on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.blurs = nil
	if on {
		w.blurs = []string{}
	}
	if name != "" {
		w.blurs = append(w.blurs, name)
	}
}
