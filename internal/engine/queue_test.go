package engine

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
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

// TestLostBeforeItsPass has a replica lose its shards: whoever took them hears of what was woken here and had no
// pass since, or none that ended well. They may have looked at it before.
func TestLostBeforeItsPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &Engine{Config: Config{Log: slog.New(slog.DiscardHandler)}}
		e.wakes.init()
		held := make(chan struct{})
		q := newQueue(Kind{Name: "x", Workers: 2}, func(_ context.Context, _ *Kind, en *entry) verdict {
			switch en.id {
			case "fails":
				return verdict{again: time.Now().Add(time.Minute), err: errors.New("not now")}
			case "sleeps":
				return verdict{again: time.Now().Add(time.Hour)}
			}
			<-held
			return verdict{}
		})
		e.queues = map[string]*queue{"x": q}
		all := map[int]int64{}
		for i := range Shards {
			all[i] = 1
		}
		e.shards.set(all)
		q.open(t.Context())
		e.Wake("x", "fails", "sleeps")
		time.Sleep(time.Second)
		e.Wake("x", "runs", "runs and is woken", "waits")
		time.Sleep(time.Second)
		e.Wake("x", "runs and is woken")
		e.own(t.Context(), nil)
		close(held)
		synctest.Wait()
		q.close()
		want := []string{"fails", "runs and is woken", "waits"}
		if got := slices.Sorted(maps.Keys(e.wakes.take()["x"])); !slices.Equal(got, want) {
			t.Errorf("the new owner hears of %q, want %q", got, want)
		}
	})
}
