package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/store"
)

// queued opens a database of SQLite and runs writes that wait in line behind one that has the
// turn, in their order. It returns the errors and, of each, what it saw of the others before it.
func queued(t *testing.T, writes ...func(ctx context.Context, tx *store.Tx, n int) error) (db *store.DB, errs []error) {
	t.Helper()
	db, err := store.Open(t.Context(), store.Config{URL: filepath.Join(t.TempDir(), "db"), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	err = db.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.ExecContext(t.Context(), `CREATE TABLE note (n INTEGER)`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		if err := db.Write(t.Context(), func(tx *store.Tx) error { <-release; return nil }); err != nil {
			t.Error(err)
		}
	})
	errs = make([]error, len(writes))
	for n, write := range writes {
		synctest.Wait()
		all.Go(func() {
			defer func() {
				if r := recover(); r != nil {
					errs[n] = fmt.Errorf("panic: %v", r)
				}
			}()
			errs[n] = db.Write(t.Context(), func(tx *store.Tx) error { return write(t.Context(), tx, n) })
		})
	}
	synctest.Wait()
	close(release)
	all.Wait()
	return db, errs
}

func note(ctx context.Context, tx *store.Tx, n int) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO note (n) VALUES ($1)`, n)
	return err
}

func notes(t *testing.T, q store.Querier) (list []int) {
	t.Helper()
	rows, err := q.QueryContext(t.Context(), `SELECT n FROM note ORDER BY n`)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var n int
		err := rows.Scan(&n)
		list = append(list, n)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// Writes that share a transaction are each done or not done.
func TestWritesThatShareATransaction(t *testing.T) {
	failed := errors.New("no")
	var calls [4]int
	for name, tt := range map[string]struct {
		odd  func(ctx context.Context, tx *store.Tx, n int) error // the third of four
		want []int
		err  string // of the third
	}{
		"all well":    {note, []int{0, 1, 2, 3}, ""},
		"one refuses": {func(ctx context.Context, tx *store.Tx, n int) error { return errors.Join(note(ctx, tx, n), failed) }, []int{0, 1, 3}, "no"},
		"a statement fails": {func(ctx context.Context, tx *store.Tx, n int) error {
			return errors.Join(note(ctx, tx, n), func() error { _, err := tx.ExecContext(ctx, `INSERT INTO none VALUES (1)`); return err }())
		}, []int{0, 1, 3}, "no such table"},
		"one panics": {func(ctx context.Context, tx *store.Tx, n int) error {
			_ = note(ctx, tx, n)
			panic("oh")
		}, []int{0, 1, 3}, "panic: oh"},
		"one was canceled": {func(ctx context.Context, tx *store.Tx, n int) error {
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return note(ctx, tx, n)
		}, []int{0, 1, 3}, "context canceled"},
		"the transaction is undone for all": {func(ctx context.Context, tx *store.Tx, n int) error {
			_, err := tx.ExecContext(ctx, `ROLLBACK`) // as SQLite does by itself when the disk is full
			return errors.Join(err, failed)
		}, []int{0, 1, 3}, "no"},
		"the transaction is undone unseen, then done alone": {func(ctx context.Context, tx *store.Tx, n int) error {
			if calls[n]++; calls[n] == 1 {
				_, err := tx.ExecContext(ctx, `ROLLBACK`)
				return err
			}
			return note(ctx, tx, n)
		}, []int{0, 1, 2, 3}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hooks, tries, undone := make([]int, 4), make([]int, 4), make([]int, 4) // each by its own write
				told := func(fn func(context.Context, *store.Tx, int) error) func(context.Context, *store.Tx, int) error {
					return func(ctx context.Context, tx *store.Tx, n int) error {
						if undone[n] != tries[n] {
							t.Errorf("write %d is done again before it is told that it was undone", n)
						}
						tries[n]++
						tx.OnCommit(func() { hooks[n]++ })
						tx.OnUndo(func() { undone[n]++ })
						return fn(ctx, tx, n)
					}
				}
				db, errs := queued(t, told(note), told(note), told(tt.odd), told(note))
				for n, err := range errs {
					switch {
					case n == 2 && tt.err != "":
						if err == nil || !strings.Contains(err.Error(), tt.err) {
							t.Errorf("the odd one: %v, want %q", err, tt.err)
						}
					case err != nil:
						t.Errorf("write %d: %v", n, err)
					}
					if want := len(slices.DeleteFunc(slices.Clone(tt.want), func(m int) bool { return m != n })); hooks[n] != want {
						t.Errorf("write %d was told of %d commits, want %d", n, hooks[n], want)
					} else if undone[n] != tries[n]-want {
						t.Errorf("write %d of %d tries was told of the end of %d, want %d", n, tries[n], undone[n], tries[n]-want)
					}
				}
				if diff := cmp.Diff(tt.want, notes(t, db.Read())); diff != "" {
					t.Errorf("stored (-want +got):\n%s", diff)
				}
				if err := db.Write(t.Context(), func(tx *store.Tx) error { return note(t.Context(), tx, 9) }); err != nil {
					t.Errorf("afterwards: %v", err)
				}
			})
		})
	}
}

// Writes see those before them in the line, readers see them with the commit of all.
func TestSharedTransactionIsOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var db *store.DB
		var seen, read []int
		look := func(ctx context.Context, tx *store.Tx, n int) error {
			if n == 2 {
				seen = notes(t, tx)
			}
			return note(ctx, tx, n)
		}
		db, errs := queued(t, look, look, look)
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		read = notes(t, db.Read())
		if diff := cmp.Diff([][]int{{0, 1}, {0, 1, 2}}, [][]int{seen, read}); diff != "" {
			t.Errorf("seen by the third, and read afterwards (-want +got):\n%s", diff)
		}
	})
}

// Who gives up in line is not waited for, and a write inside a write is told so.
func TestLineIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, err := store.Open(t.Context(), store.Config{URL: filepath.Join(t.TempDir(), "db"), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		nothing := func(*store.Tx) error { return nil }
		err = db.Write(t.Context(), func(*store.Tx) error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := db.Write(ctx, nothing); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("who gives up: %v", err)
			}
			began := time.Now()
			if err := db.Write(t.Context(), nothing); err == nil || !strings.Contains(err.Error(), "nested") || time.Since(began) > time.Minute {
				t.Errorf("a write inside a write: %v after %v", err, time.Since(began))
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if err := db.Write(t.Context(), nothing); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// A large write goes before those that wait, but not always.
func TestWriteFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db, err := store.Open(t.Context(), store.Config{URL: filepath.Join(t.TempDir(), "db"), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		var mu sync.Mutex
		var order []string
		release := make(chan struct{})
		var all sync.WaitGroup
		start := func(write func(context.Context, func(*store.Tx) error) error, name string) {
			all.Go(func() {
				err := write(t.Context(), func(*store.Tx) error {
					if name == "begin" {
						<-release
					}
					mu.Lock()
					defer mu.Unlock()
					order = append(order, name)
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		start(db.WriteFirst, "begin")
		start(db.Write, "a")
		start(db.Write, "b")
		start(db.WriteFirst, "first")
		start(db.WriteFirst, "second")
		close(release)
		all.Wait()
		if got := strings.Join(order, " "); got != "begin first a b second" {
			t.Errorf("order %q", got)
		}
	})
}
