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
			err := q.take(backend.CreateRequest{Token: token})
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
			err := q.take(backend.CreateRequest{Token: fmt.Sprint(n), Rank: backend.Rank{Since: began.Add(time.Duration(n))}})
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

// TestTurnsOfTheQueue has the first of a queue be refused and ask again while those behind it, which have
// waited for longer by now, have not asked yet.
func TestTurnsOfTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &turns{every: 12 * time.Second}
		began := time.Now()
		ask := func(token string, priority int, since time.Duration) backend.CreateRequest {
			return backend.CreateRequest{Token: token, Rank: backend.Rank{Priority: priority, Since: began.Add(since)}}
		}
		want := func(req backend.CreateRequest, wait time.Duration) {
			t.Helper()
			err := q.take(req)
			limit, _ := errors.AsType[*backend.RateLimitedError](err)
			if wait == 0 && err != nil || wait != 0 && (limit == nil || limit.After != wait) {
				t.Errorf("take(%s) = %v, want a wait of %v", req.Token, err, wait)
			}
		}
		want(ask("first", 89, 0), 0)
		q.giveBack(true)
		want(ask("second", 88, 0), 12*time.Second)
		want(ask("third", 87, 0), 24*time.Second)
		time.Sleep(12 * time.Second)
		want(ask("second", 88, 0), 0)
		q.giveBack(true)
		time.Sleep(3 * time.Second)
		want(ask("first again", 89, 0), 9*time.Second)
		time.Sleep(9 * time.Second)
		want(ask("third", 87, 0), 12*time.Second) // it was its turn
		want(ask("first again", 89, 0), 0)
		q.giveBack(true)
		want(ask("as third, later", 87, time.Minute), 24*time.Second)
		time.Sleep(12 * time.Second)
		want(ask("third", 87, 0), 0)
	})
}

// TestTurnsOfOthers has one of a low rank wait behind who asks all the time, for the same and for something else.
func TestTurnsOfOthers(t *testing.T) {
	for _, tt := range []struct {
		of   string
		last int // after how many it has its turn
	}{{"gpu_1x_h100", maxPassed}, {"gpu_1x_a10", 20}} {
		synctest.Test(t, func(t *testing.T) {
			q := &turns{every: 12 * time.Second}
			low := backend.CreateRequest{Token: "low", Offer: backend.Offer{Instance: "gpu_1x_a10"}}
			high := func(n int) backend.CreateRequest {
				return backend.CreateRequest{Token: fmt.Sprint("high ", n), Rank: backend.Rank{Priority: 9}, Offer: backend.Offer{Instance: tt.of}}
			}
			if err := q.take(high(0)); err != nil {
				t.Fatal(err)
			}
			q.giveBack(true)
			for n := 1; ; n++ {
				for _, req := range []backend.CreateRequest{low, high(n)} {
					if err := q.take(req); err == nil {
						t.Fatalf("%s: %s has its turn too soon", tt.of, req.Token)
					}
				}
				time.Sleep(q.every)
				if err := q.take(low); err == nil {
					if n-1 != tt.last {
						t.Errorf("%s: %d had their turns before", tt.of, n-1)
					}
					return
				}
				if n > tt.last { // of the same kind nothing is to be had for either
					if tt.of != low.Offer.Instance {
						t.Errorf("%s: no turn after %d others", tt.of, n)
					}
					return
				}
				if err := q.take(high(n)); err != nil {
					t.Fatal(err)
				}
				q.giveBack(true)
			}
		})
	}
}
