package engine

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestWokenWhileDropped has a pass end for an object of a lost shard after the shard was taken again and
// the object woken for that: it is looked at.
func TestWokenWhileDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		passes := 0
		var q *queue
		q = newQueue(Kind{Name: "x", Workers: 1}, func(context.Context, *Kind, *entry) verdict {
			if passes++; passes > 1 {
				return verdict{}
			}
			q.drop(func(int) bool { return true })
			q.wake("1")
			return verdict{drop: true}
		})
		q.open(t.Context())
		q.wake("1")
		time.Sleep(time.Second)
		synctest.Wait()
		q.close()
		if passes != 2 {
			t.Errorf("%d passes, want one for each owner", passes)
		}
	})
}
