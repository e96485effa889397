package ledger_test

import (
	"testing"
	"time"

	"dstack/internal/ledger"
)

// TestBackendChangedMeanwhile asks a backend for nothing once another server has changed or deleted it,
// and goes on when this one has heard. What exists can be ended all the while.
func TestBackendChangedMeanwhile(t *testing.T) {
	each(t, plain, func(w *world) {
		before := w.intend()
		time.Sleep(time.Minute)
		w.outdate(true)
		id := w.intend()
		time.Sleep(5 * time.Minute)
		w.want(id, ledger.Intended, 1)
		if n := w.cloud.Calls("Create"); n != 1 {
			t.Errorf("%d requests to create, want that of before", n)
		}
		w.release(before)
		time.Sleep(time.Minute)
		w.want(before, ledger.Gone, 0)
		w.outdate(false)
		time.Sleep(3 * time.Minute)
		w.want(id, ledger.Created, 1)
	})
}
