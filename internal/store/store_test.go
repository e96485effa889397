package store_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

func write(t *testing.T, db *store.DB, query string, args ...any) error {
	t.Helper()
	return db.Write(t.Context(), func(tx *store.Tx) error {
		_, err := tx.ExecContext(t.Context(), query, args...)
		return err
	})
}

func TestWriteReadBack(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx := t.Context()
		type doc struct{ A, B string }
		in, at := doc{"x", "é\x00"}, time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
		in.B = "é"
		if err := write(t, db, `CREATE TABLE thing (id TEXT PRIMARY KEY, at BIGINT, doc TEXT, on_ BOOLEAN, raw BYTEA)`); err != nil {
			t.Fatal(err)
		}
		if err := write(t, db, `INSERT INTO thing (id, at, doc, on_, raw) VALUES ($1, $2, $3, $4, $5)`,
			"a", store.Micros(at), store.JSON(&in), true, []byte{0, 1, 255}); err != nil {
			t.Fatal(err)
		}
		var out doc
		var micros int64
		var on bool
		var raw []byte
		err := db.Read().QueryRowContext(ctx, `SELECT at, doc, on_, raw FROM thing WHERE id = $1`, "a").Scan(&micros, store.JSON(&out), &on, &raw)
		if err != nil {
			t.Fatal(err)
		}
		if out != in || !store.Time(micros).Equal(at) || !on || string(raw) != "\x00\x01\xff" {
			t.Errorf("read back %v %v %v %q", out, store.Time(micros), on, raw)
		}
	})
}

func TestRollback(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		boom, committed, undone := errors.New("boom"), false, 0
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			tx.OnCommit(func() { committed = true })
			tx.OnUndo(func() { undone++ })
			if _, err := tx.ExecContext(t.Context(), `INSERT INTO setting (name, value) VALUES ('a', 'b')`); err != nil {
				return err
			}
			return boom
		})
		if !errors.Is(err, boom) || committed || undone != 1 {
			t.Errorf("Write = %v, committed %v, undone %d times", err, committed, undone)
		}
		var n int
		if err := db.Read().QueryRowContext(t.Context(), `SELECT count(*) FROM setting WHERE name = 'a'`).Scan(&n); err != nil || n != 0 {
			t.Errorf("%d rows after rollback, %v", n, err)
		}
		func() {
			defer func() { _ = recover() }()
			_ = db.Write(t.Context(), func(tx *store.Tx) error {
				tx.OnUndo(func() { undone++ })
				panic("oh")
			})
		}()
		err = db.Write(t.Context(), func(tx *store.Tx) error {
			tx.OnUndo(func() { undone++ })
			_, err := tx.ExecContext(t.Context(), `CREATE TABLE one (id INTEGER PRIMARY KEY)`)
			if err == nil {
				_, err = tx.ExecContext(t.Context(), `CREATE TABLE two (id INTEGER REFERENCES one (id) DEFERRABLE INITIALLY DEFERRED)`)
			}
			return err
		})
		if err != nil || undone != 2 {
			t.Errorf("after a panic and a commit: undone %d times, %v", undone, err)
		}
		err = db.Write(t.Context(), func(tx *store.Tx) error {
			tx.OnCommit(func() { committed = true })
			tx.OnUndo(func() { undone++ })
			_, err := tx.ExecContext(t.Context(), `INSERT INTO two (id) VALUES (1)`)
			return err
		})
		if err == nil || committed || undone != 3 {
			t.Errorf("a commit that fails: %v, committed %v, undone %d times", err, committed, undone)
		}
		if err := db.Write(t.Context(), func(tx *store.Tx) error { return nil }); err != nil {
			t.Errorf("after a commit that failed: %v", err)
		}
	})
}

func TestServerIDStays(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, url string) {
		var ids [2]string
		for i := range ids {
			t.Run("open", func(t *testing.T) { ids[i] = storetest.Open(t, url).ServerID() })
		}
		if ids[0] == "" || ids[0] != ids[1] {
			t.Errorf("server ids %q", ids)
		}
	})
}

func TestContextEnds(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := db.Write(ctx, func(*store.Tx) error { return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("Write = %v, want canceled", err)
		}
		if err := write(t, db, `DELETE FROM replica`); err != nil {
			t.Errorf("the next write: %v", err)
		}
	})
}
