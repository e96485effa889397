package engine_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"sync"
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
	through := newValve(t, storetest.PostgresURL(t))
	db := storetest.Open(t, through.url)
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
	through.shut()
	if cause := await(t, "the end of the pass", ended); !errors.Is(cause, engine.ErrFenced) {
		t.Errorf("the pass ended because of %v, want ErrFenced", cause)
	}
	if !await(t, "the loss of the object", lost) {
		t.Error("the object was not among what was lost")
	}
	through.open()
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

// valve passes connections to a database on, and holds what they carry back while it is shut.
type valve struct {
	url  string
	mu   sync.Mutex
	gate chan struct{} // closed: open
}

func newValve(t *testing.T, database string) *valve {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	v := &valve{gate: make(chan struct{})}
	v.open()
	var wg sync.WaitGroup
	target := u.Host
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { v.carry(c, target) })
		}
	})
	t.Cleanup(func() { l.Close(); v.open(); wg.Wait() })
	u.Host = l.Addr().String()
	v.url = u.String()
	return v
}

func (v *valve) carry(client net.Conn, target string) {
	defer client.Close()
	server, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer server.Close()
	var wg sync.WaitGroup
	for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
		wg.Go(func() {
			defer way[1].Close()
			buf := make([]byte, 32<<10)
			for {
				n, err := way[0].Read(buf)
				<-v.passage()
				if _, werr := way[1].Write(buf[:n]); err != nil || werr != nil {
					return
				}
			}
		})
	}
	wg.Wait()
}

func (v *valve) passage() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.gate
}

func (v *valve) shut() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.gate = make(chan struct{})
}

func (v *valve) open() {
	v.mu.Lock()
	defer v.mu.Unlock()
	select {
	case <-v.gate:
	default:
		close(v.gate)
	}
}
