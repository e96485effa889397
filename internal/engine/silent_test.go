package engine_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"dstack/internal/engine"
	"dstack/internal/engine/enginetest"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// TestSilentDatabase has the database stop to answer, as behind a broken network: no error,
// no closed connection. The replica gives its shards up when its lease has ended, ends what
// runs for them, and works again when the database does. It runs in real time: a connection
// that is silent stops virtual time.
func TestSilentDatabase(t *testing.T) {
	through := storetest.NewValve(t, storetest.PostgresURL(t))
	db := storetest.Open(t, through.URL)
	e, err := engine.New(engine.Config{DB: db, Log: slog.New(slog.DiscardHandler), Owner: "a", Bus: &enginetest.Bus{}, Lease: 600 * time.Millisecond, Drain: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	began, ended, lost := make(chan struct{}, 10), make(chan error, 10), make(chan bool, 10)
	e.Register(engine.Kind{
		Name: "x",
		Live: func(_ context.Context, _ store.Querier, shards []int) ([]string, error) {
			if len(shards) == engine.Shards {
				return []string{"1"}, nil
			}
			return nil, nil
		},
		Reconcile: func(ctx context.Context, _ engine.Item) (time.Time, error) {
			began <- struct{}{}
			<-ctx.Done()
			ended <- context.Cause(ctx)
			return time.Time{}, ctx.Err()
		},
		Lost: func(theirs func(id string) bool) { lost <- theirs("1") },
	})
	enginetest.Start(t, e)
	await(t, "the first pass", began)
	through.Shut()
	if cause := await(t, "the end of the pass", ended); !errors.Is(cause, engine.ErrFenced) {
		t.Errorf("the pass ended because of %v, want ErrFenced", cause)
	}
	if !await(t, "the loss of the object", lost) {
		t.Error("the object was not among what was lost")
	}
	through.Open()
	await(t, "a pass after the database is back", began)
}

func await[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("not within 20 s: %s", what)
		panic("unreachable")
	}
}
