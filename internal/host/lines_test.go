package host

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// A shared connection is closed a while after it was last used, but never under a call, however long that takes.
func TestLinesRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lines
		made, closed := 0, 0
		connect := func(context.Context) (*opened, error) {
			made++
			return &opened{close: func() { closed++ }}, nil
		}
		var got *line
		use := func() {
			t.Helper()
			if err := l.use(t.Context(), "i", connect, func(n *line) error { got = n; return nil }); err != nil {
				t.Fatal(err)
			}
		}
		use()
		dial := got.open.counted(func(context.Context) (net.Conn, error) {
			near, far := net.Pipe()
			t.Cleanup(func() { far.Close() })
			return near, nil
		})
		call, err := dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * lineIdle)
		if use(); made != 1 || closed != 0 {
			t.Errorf("made %d times and closed %d times during a call, want 1 and 0", made, closed)
		}
		call.Close()
		call.Close() // again
		time.Sleep(2*lineIdle + time.Second)
		if closed != 1 || len(l.byID) != 0 {
			t.Errorf("closed %d times, %d lines are left; want 1 and none", closed, len(l.byID))
		}
		if use(); made != 2 {
			t.Errorf("made %d times, want 2", made)
		}
		time.Sleep(2 * lineIdle) // so that its timer is over
	})
}

// The end of a connection is not that of the next one to the same host.
func TestLinesEnd(t *testing.T) {
	var l lines
	var first, second *line
	closed := ""
	for i, n := range []**line{&first, &second} {
		name := string(rune('a' + i))
		err := l.use(t.Context(), "i", func(context.Context) (*opened, error) { return &opened{close: func() { closed += name }}, nil }, func(got *line) error {
			*n = got
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			l.rest("i", first)
		}
	}
	<-first.turn
	l.end("i", first) // as when its SSH connection says that it has ended
	if closed != "a" || l.byID["i"] != second {
		t.Errorf("closed %q, want the first alone", closed)
	}
	l.rest("i", second)
	if closed != "ab" {
		t.Errorf("closed %q, want both", closed)
	}
}
