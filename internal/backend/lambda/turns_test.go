package lambda

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/backend"
)

// TestTurns has launches that last, one that is given up, one that is withdrawn, and more than the
// limit lets through in a while.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &turns{every: 12 * time.Second}
		want := func(token string, wait time.Duration) {
			t.Helper()
			err := q.take(token, time.Time{})
			limit, _ := errors.AsType[*backend.RateLimitedError](err)
			if wait == 0 && err != nil || wait != 0 && (limit == nil || limit.After != wait || !limit.Queued) {
				t.Errorf("take(%s) = %v, want a wait of %v", token, err, wait)
			}
		}
		want("a", 0)
		want("b", 12*time.Second)
		want("c", 24*time.Second)
		time.Sleep(12 * time.Second)
		want("b", 12*time.Second) // a still launches
		time.Sleep(8 * time.Second)
		q.giveBack(true)
		time.Sleep(4 * time.Second)
		want("b", 8*time.Second)
		want("c", 20*time.Second)
		want("d", 32*time.Second)
		time.Sleep(8 * time.Second)
		want("b", 0)
		q.giveBack(false) // found what it made before
		time.Sleep(12 * time.Second)
		want("c", 0)
		q.giveBack(true)
		time.Sleep(25 * time.Second) // d does not come
		want("e", 0)
		q.giveBack(true)
		for i := range 10 {
			want(fmt.Sprint("f", i), min(time.Duration(i+1)*12*time.Second, longestAway))
		}
		for i := range 10 {
			q.withdraw(fmt.Sprint("f", i))
		}
		want("g", 12*time.Second)
	})
}

// TestTurnsOfOlderWishes has wishes ask in another order than they were made in.
func TestTurnsOfOlderWishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &turns{every: 12 * time.Second}
		began := time.Now()
		want := func(n int, wait time.Duration) {
			t.Helper()
			err := q.take(fmt.Sprint(n), began.Add(time.Duration(n)))
			limit, _ := errors.AsType[*backend.RateLimitedError](err)
			if wait == 0 && err != nil || wait != 0 && (limit == nil || limit.After != wait) {
				t.Errorf("take(%d) = %v, want a wait of %v", n, err, wait)
			}
		}
		want(9, 0)
		q.giveBack(true)
		want(3, 12*time.Second)
		want(1, 12*time.Second)
		want(2, 24*time.Second)
		time.Sleep(12 * time.Second)
		want(3, 24*time.Second)
		want(1, 0)
		q.giveBack(true)
		time.Sleep(12 * time.Second)
		want(2, 0)
		q.giveBack(true)
		time.Sleep(12 * time.Second)
		want(3, 0)
	})
}
