package ledger_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"dstack/internal/backend"
	"dstack/internal/backend/fake"
	"dstack/internal/ledger"
	"dstack/internal/store"
)

// TestEditedRows has somebody write into the columns of an intent whose machine runs. A sweep takes it up:
// either it is as before, or the machine ends; once it is released, it ends in any case.
func TestEditedRows(t *testing.T) {
	for edit, kept := range map[string]bool{
		`wanted = FALSE`:                 false,
		`wanted = FALSE, idle = TRUE`:    false,
		`kind = 'volume'`:                true,
		`kind = 'placement'`:             true,
		`kind = 'nonsense'`:              true,
		`state = 'intended'`:             true,
		`state = 'unknown'`:              true,
		`state = 'deleting'`:             false,
		`state = 'gone'`:                 false,
		`state = 'gone', wanted = FALSE`: false,
		`resource_id = ''`:               true,
		`idle = FALSE`:                   true,
	} {
		for _, restarted := range []bool{false, true} {
			for _, released := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, restarted %v, released %v", edit, restarted, released), func(t *testing.T) {
					each(t, plain, func(w *world) {
						id := w.intend()
						time.Sleep(time.Minute)
						w.want(id, ledger.Created, 1)
						if restarted {
							w.stop()
						}
						w.edit(id, edit)
						if restarted {
							w.restart()
						}
						if released {
							w.release(id)
						}
						time.Sleep(20 * time.Minute)
						if kept && !released {
							w.want(id, ledger.Created, 1)
							w.release(id)
							time.Sleep(time.Minute)
						}
						w.want(id, ledger.Gone, 0)
						w.billEqual()
					})
				})
			}
		}
	}
}

// edit writes into an intent behind the ledger's back.
func (w *world) edit(id, columns string) {
	w.Helper()
	w.write(func(tx *store.Tx) error {
		return store.Guarded(tx.ExecContext(context.Background(), `UPDATE intent SET version = version + 1, `+columns+` WHERE id = $1`, id))
	})
}

// TestEditedQuestion has somebody write that it was asked in the far future whether a machine exists: it is
// looked at once, and when it is really asked.
func TestEditedQuestion(t *testing.T) {
	each(t, plain, func(w *world) {
		id := w.intend()
		time.Sleep(time.Minute)
		before := w.get(id).Version
		w.edit(id, `idle = FALSE, check_at = 4000000000000000000`)
		time.Sleep(20 * time.Minute)
		if r := w.want(id, ledger.Created, 1); r.Version > before+5 {
			t.Errorf("the record was stored %d times", r.Version-before)
		}
		w.cloud.Kill(w.get(id).Instance().Ref.ID)
		w.write(func(tx *store.Tx) error { return w.ledger.Check(context.Background(), tx, id) })
		time.Sleep(time.Minute)
		w.want(id, ledger.Gone, 0)
	})
}

// TestEditedGone has somebody write that there is what never was, or what is gone.
func TestEditedGone(t *testing.T) {
	for _, edit := range []string{`state = 'created'`, `state = 'created', wanted = TRUE`, `state = 'deleting'`, `state = 'unknown'`} {
		for _, refused := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, refused %v", edit, refused), func(t *testing.T) {
				each(t, plain, func(w *world) {
					if refused {
						w.cloud.Inject(fake.Fault{Op: "Create", Nth: 1, Before: backend.ErrNoCapacity})
					}
					id := w.intend()
					time.Sleep(time.Minute)
					w.release(id)
					time.Sleep(10 * time.Minute)
					w.want(id, ledger.Gone, 0)
					w.edit(id, edit)
					time.Sleep(20 * time.Minute)
					w.want(id, ledger.Gone, 0)
				})
			})
		}
	}
}
