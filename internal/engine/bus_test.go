package engine_test

import (
	"testing"
	"time"

	"dstack/internal/store/storetest"
)

// TestPostgresBus runs in real time: LISTEN does not work in a bubble.
func TestPostgresBus(t *testing.T) {
	db := storetest.Open(t, storetest.PostgresURL(t))
	ctx := t.Context()
	ready, got := make(chan struct{}), make(chan string, 1)
	done := make(chan error, 1)
	go func() { done <- db.Listen(ctx, func() { close(ready) }, func(msg string) { got <- msg }) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	if err := db.Notify(ctx, "hello"); err != nil {
		t.Fatal(err)
	}
	select {
	case msg := <-got:
		if msg != "hello" {
			t.Errorf("received %q", msg)
		}
	case <-time.After(10 * time.Second):
		t.Error("nothing received")
	}
}
