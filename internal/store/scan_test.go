package store_test

import (
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// TestScanDamaged reads a row of which one value makes no sense: the others are read.
func TestScanDamaged(t *testing.T) {
	type row struct {
		name  string
		at    int64
		num   int
		flag  bool
		price float64
		doc   map[string]int
		last  string
	}
	intact := row{"a", 7, 3, true, 2.5, map[string]int{"x": 1}, "z"}
	tests := []struct {
		set      string
		engine   store.Engine // "": both
		want     func(r *row)
		says     string
		document bool
	}{
		{set: `flag = TRUE`, want: func(*row) {}},
		{set: `at = 'yesterday'`, engine: store.SQLite, want: func(r *row) { r.at = 0 }, says: `at: "yesterday" makes no sense`},
		{set: `at = 1.5`, engine: store.SQLite, want: func(r *row) { r.at = 0 }, says: `at: 1.5 makes`},
		{set: `at = '2026-01-01 00:00:00'`, engine: store.SQLite, want: func(r *row) { r.at = 0 }, says: `at: "2026-01-01`},
		{set: `num = x'00ff'`, engine: store.SQLite, want: func(r *row) { r.num = 0 }, says: `num: a BLOB of 2 bytes`},
		{set: `num = '` + strings.Repeat("n", 999) + `'`, engine: store.SQLite, want: func(r *row) { r.num = 0 }, says: `"` + strings.Repeat("n", 40) + `" makes`},
		{set: `flag = 'yes'`, engine: store.SQLite, want: func(r *row) { r.flag = false }, says: `flag: "yes"`},
		{set: `flag = 2`, engine: store.SQLite, want: func(*row) {}},
		{set: `price = 9e999`, engine: store.SQLite, want: func(r *row) { r.price = 0 }, says: `price: +Inf`},
		{set: `price = 'NaN'`, engine: store.SQLite, want: func(r *row) { r.price = 0 }, says: `price: "NaN"`},
		{set: `price = 'NaN'`, engine: store.Postgres, want: func(r *row) { r.price = 0 }, says: `price: NaN`},
		{set: `price = '-Infinity'`, engine: store.Postgres, want: func(r *row) { r.price = 0 }, says: `price: -Inf`},
		{set: `price = 2`, want: func(r *row) { r.price = 2 }},
		{set: `price = NULL`, want: func(r *row) { r.price = 0 }, says: `price: NULL`},
		{set: `doc = '{bad'`, want: func(r *row) { r.doc = nil }, says: "stored document: invalid character", document: true},
		{set: `price = NULL, doc = '{bad'`, want: func(r *row) { r.price, r.doc = 0, nil }, says: "stored document", document: true},
		{set: `doc = NULL`, want: func(r *row) { r.doc = nil }},
	}
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		exec := func(texts ...string) {
			t.Helper()
			err := db.Write(t.Context(), func(tx *store.Tx) error {
				for _, text := range texts {
					if _, err := tx.ExecContext(t.Context(), text); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		exec(`CREATE TABLE hand (name TEXT NOT NULL, at BIGINT NOT NULL, num INTEGER NOT NULL, flag BOOLEAN NOT NULL, price DOUBLE PRECISION, doc TEXT, last TEXT NOT NULL)`)
		for _, tt := range tests {
			if tt.engine != "" && tt.engine != db.Engine() {
				continue
			}
			exec(`DELETE FROM hand`, `INSERT INTO hand VALUES ('a', 7, 3, TRUE, 2.5, '{"x": 1}', 'z')`, `UPDATE hand SET `+tt.set)
			var got row
			rows, err := db.Read().QueryContext(t.Context(), `SELECT name, at, num, flag, price, doc, last FROM hand`)
			n := 0
			err = store.EachRow(rows, err, func(rows *sql.Rows) error {
				n++
				return store.Scan(rows, &got.name, &got.at, &got.num, &got.flag, &got.price, store.JSON(&got.doc), &got.last)
			})
			damage, damaged := errors.AsType[*store.Damage](err)
			switch {
			case n != 1 || err != nil && !damaged:
				t.Fatalf("%s: %d rows: %v", tt.set, n, err)
			case damaged != (tt.says != ""), damaged && (!strings.Contains(err.Error(), tt.says) || damage.Document != tt.document):
				t.Errorf("%s: %v, want %q", tt.set, err, tt.says)
			}
			want := intact
			tt.want(&want)
			if d := cmp.Diff(want, got, cmp.AllowUnexported(row{})); d != "" {
				t.Errorf("%s (-want +got):\n%s", tt.set, d)
			}
		}
	})
}

// TestScanRefused leaves what has nothing to do with a value as it is.
func TestScanRefused(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		var n int
		err := store.Scan(db.Read().QueryRowContext(t.Context(), `SELECT id FROM shard WHERE id < 0`), &n)
		if !errors.Is(store.DespiteDamage(err), sql.ErrNoRows) {
			t.Errorf("no row: %v", err)
		}
		if err := store.Scan(db.Read().QueryRowContext(t.Context(), `SELECT 1, 2`), &n); store.DespiteDamage(err) == nil {
			t.Error("two columns are read into one")
		}
	})
}

// TestVersions writes a row by its version, whatever that is: it is a number from then on, and who
// has an older one is refused.
func TestVersions(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		versions := []string{"1", "0", "-5", "9223372036854775807"}
		if db.Engine() == store.SQLite {
			versions = append(versions, "'abc'", "'5abc'", "2.5", "9e999", "-9e999", "x'00'")
		}
		write := func(text string, args ...any) error {
			return db.Write(t.Context(), func(tx *store.Tx) error {
				return store.Guarded(tx.ExecContext(t.Context(), text, args...))
			})
		}
		for n, version := range versions {
			id := fmt.Sprint(n)
			if err := write(`INSERT INTO export (id, project_id, name, created_at, version) VALUES ($1, 'p', $1, 0, `+version+`)`, id); err != nil {
				t.Fatal(err)
			}
			read := func() (v int64) {
				if err := db.Read().QueryRowContext(t.Context(), `SELECT `+store.Version+` FROM export WHERE id = $1`, id).Scan(&v); err != nil {
					t.Fatalf("%s: %v", version, err)
				}
				return v
			}
			guarded := func(v int64) error {
				return write(`UPDATE export SET version = `+store.NextVersion+` WHERE id = $1 AND `+store.Version+` = $2`, id, v)
			}
			for range 2 {
				was := read()
				if err := guarded(was); err != nil {
					t.Errorf("%s: version %d is not written: %v", version, was, err)
				}
				if now := read(); now < 1 || now == was {
					t.Errorf("%s: version %d after %d", version, now, was)
				}
				if err := guarded(was); !errors.Is(err, store.ErrConflict) {
					t.Errorf("%s: version %d is written twice: %v", version, was, err)
				}
			}
		}
	})
}
