package store_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// TestSilentTransactionsEnd checks the bound and not its effect, which is the database's: a
// replica that is frozen inside a transaction must not keep its locks until its successor
// needs them.
func TestSilentTransactionsEnd(t *testing.T) {
	db := storetest.Open(t, storetest.PostgresURL(t))
	var ms int64
	err := db.Read().QueryRowContext(t.Context(), `SELECT setting FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'`).Scan(&ms)
	if err != nil {
		t.Fatal(err)
	}
	if d := time.Duration(ms) * time.Millisecond; d <= 0 || d >= 15*time.Second {
		t.Errorf("Postgres waits %v for the owner of a transaction, want less than a lease of 15 s", d)
	}
}

// TestSilentPostgres has a proxy between take what is sent and pass nothing on. Reads and transactions end with
// an error that says so, and go on when the database answers again.
func TestSilentPostgres(t *testing.T) {
	through := storetest.NewValve(t, storetest.PostgresURL(t))
	// Answer binds the healthy database, too, which may be slow here.
	db, err := store.Open(t.Context(), store.Config{URL: through.URL, Answer: 3 * time.Second, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	one := func() error {
		var n int
		return db.Read().QueryRowContext(t.Context(), `SELECT 1`).Scan(&n)
	}
	write := func() error {
		return db.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.ExecContext(t.Context(), `INSERT INTO setting (name, value) VALUES ('a', 'b') ON CONFLICT DO NOTHING`)
			return err
		})
	}
	if err := errors.Join(one(), write()); err != nil {
		t.Fatal(err)
	}
	through.Shut()
	var asked sync.WaitGroup
	for name, do := range map[string]func() error{"read": one, "write": write} {
		asked.Go(func() {
			if err := do(); !store.Down(err) {
				t.Errorf("%s of a silent database: %v, want that it is down", name, err)
			}
		})
	}
	asked.Wait()
	through.Open()
	if err := errors.Join(one(), write()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestReadOnlyPostgres has sessions begin while the database takes no writes: they do not outlast that.
func TestReadOnlyPostgres(t *testing.T) {
	db := storetest.Open(t, storetest.PostgresURL(t))
	write := func(statement string) error {
		return db.Write(t.Context(), func(tx *store.Tx) error {
			_, err := tx.ExecContext(t.Context(), statement)
			return err
		})
	}
	if err := write(`SET TRANSACTION READ ONLY; CREATE TABLE none (n int)`); !store.Down(err) || !strings.Contains(err.Error(), "takes no writes") {
		t.Errorf("a write that the database refuses: %v, want that it is down", err)
	}
	for range 10 { // each connection that may be idle
		if err := write(`SET default_transaction_read_only = on`); err != nil { // as a session would begin with it
			t.Fatal(err)
		}
		if err := write(`INSERT INTO setting (name, value) VALUES ('a', 'b') ON CONFLICT DO NOTHING`); err != nil {
			t.Fatalf("afterwards: %v", err)
		}
	}
}

// TestSilentIdleConnections: connections that were idle when the database fell silent are told apart sooner than
// an answer may take.
func TestSilentIdleConnections(t *testing.T) {
	const answer = 12 * time.Second
	through := storetest.NewValve(t, storetest.PostgresURL(t))
	// Three idle connections and a new one: 3*answer/6 + 3 s.
	db, err := store.Open(t.Context(), store.Config{URL: through.URL + "&connect_timeout=3", Answer: answer, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var all, read sync.WaitGroup
	read.Add(3)
	for range 3 { // as many connections
		all.Go(func() {
			err := db.Snapshot(t.Context(), func(store.Querier) error { read.Done(); read.Wait(); return nil })
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	<-time.After(1100 * time.Millisecond) // they are idle
	through.Shut()
	began := time.Now()
	var n int
	if err := db.Read().QueryRowContext(t.Context(), `SELECT 1`).Scan(&n); !store.Down(err) {
		t.Errorf("%v, want that the database is down", err)
	}
	if took := time.Since(began); took >= answer {
		t.Errorf("said after %v, and one answer may take %v", took, answer)
	}
}

// TestSilentListen: a connection that listens is told apart, too, and the next one hears.
func TestSilentListen(t *testing.T) {
	through := storetest.NewValve(t, storetest.PostgresURL(t))
	db, err := store.Open(t.Context(), store.Config{URL: through.URL, Answer: 4 * time.Second, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	heard, ended := make(chan string, 10), make(chan error, 2)
	listen := func() {
		t.Helper()
		ready := make(chan struct{})
		go func() { ended <- db.Listen(ctx, func() { close(ready) }, func(msg string) { heard <- msg }) }()
		select {
		case <-ready:
		case err := <-ended:
			t.Fatal(err)
		}
	}
	hears := func(msg string) {
		t.Helper()
		if err := db.Notify(ctx, msg); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-heard:
			if got != msg {
				t.Errorf("heard %q, want %q", got, msg)
			}
		case err := <-ended:
			t.Fatal(err)
		case <-time.After(20 * time.Second):
			t.Fatalf("%q was not heard", msg)
		}
	}
	listen()
	hears("first")
	<-time.After(4500 * time.Millisecond) // nothing is told for longer than an answer may take
	hears("second")
	through.Shut()
	select {
	case err := <-ended:
		if err == nil || ctx.Err() != nil {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the silence was not noticed")
	}
	through.Open()
	listen()
	hears("third")
}

// TestConns has all transactions that are allowed read beside themselves, as some do for rows that
// they do not change: none waits for another.
func TestConns(t *testing.T) {
	db, err := store.Open(t.Context(), store.Config{URL: storetest.PostgresURL(t), Conns: 4, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var begun, all sync.WaitGroup
	begun.Add(2)
	for range 2 {
		all.Go(func() {
			err := db.Write(ctx, func(tx *store.Tx) error {
				begun.Done()
				begun.Wait()
				var one int
				return db.Read().QueryRowContext(ctx, `SELECT 1`).Scan(&one)
			})
			if err != nil {
				t.Errorf("read inside of a transaction: %v", err)
			}
		})
	}
	all.Wait()
	for range 2 {
		rows, err := db.Read().QueryContext(ctx, `SELECT 1`)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
	}
	waiting, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := db.Read().QueryContext(waiting, `SELECT 1`); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a third read: %v, want a wait", err)
	}
}
