package engine_test

import (
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/engine"
	"dstack/internal/engine/enginetest"
	"dstack/internal/store/storetest"
)

// TestResting has a replica that does no work wake and tell one that does.
func TestResting(t *testing.T) {
	url := storetest.PostgresURL(t)
	synctest.Test(t, func(t *testing.T) {
		db, bus := storetest.Open(t, url), &enginetest.Bus{}
		idle, err := engine.New(engine.Config{DB: db, Log: slog.New(slog.DiscardHandler), Owner: "idle", Bus: bus, Clock: virtual, Resting: true})
		if err != nil {
			t.Fatal(err)
		}
		var r recorder
		idle.Register(engine.Kind{Name: "x", Reconcile: r.reconcile, Live: none})
		var heard []string
		idle.Hear("topic", func(id string) { heard = append(heard, id) })
		enginetest.Start(t, idle)
		busy := startReplica(t, db, bus, "busy", ids(100))
		time.Sleep(time.Minute)
		settle()
		if got := owners(t, db); got["busy"] != engine.Shards {
			t.Fatalf("shards by owner: %v", got)
		}
		busy.reset()
		for _, id := range ids(100) {
			idle.Wake("x", id)
		}
		busy.e.Tell("topic", "news")
		settle()
		if n := len(busy.ids()); n != 100 {
			t.Errorf("%d of 100 objects were woken", n)
		}
		if len(r.ids()) != 0 || !slices.Equal(heard, []string{"news"}) {
			t.Errorf("the resting replica looked at %v and heard %v", r.ids(), heard)
		}
	})
}
