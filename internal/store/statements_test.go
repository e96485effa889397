package store_test

import (
	"fmt"
	"strings"
	"testing"

	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// Statements are used again for other arguments, after errors, and while their rows are read.
func TestStatementsAreUsedAgain(t *testing.T) {
	db := storetest.SQLite(t)
	ctx := t.Context()
	put := func(tx *store.Tx, name, value string) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO setting (name, value) VALUES ($1, $2)`, name, value)
		return err
	}
	err := db.Write(ctx, func(tx *store.Tx) error {
		for i := range 600 { // more texts than are kept
			var n int
			text := `SELECT count(*) FROM setting WHERE name IN (` + strings.TrimSuffix(strings.Repeat("'x', ", i+1), ", ") + `)`
			if err := tx.QueryRowContext(ctx, text).Scan(&n); err != nil {
				return err
			}
		}
		for i := range 3 {
			if err := put(tx, fmt.Sprint("a", i), fmt.Sprint(i)); err != nil {
				return err
			}
			if err := put(tx, fmt.Sprint("a", i), "again"); store.Constraint(err) == "" {
				return fmt.Errorf("a second value: %w", err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	const all = `SELECT name, value FROM setting WHERE name >= $1 AND name < 'b' ORDER BY name`
	outer, err := db.Read().QueryContext(ctx, all, "a0")
	if err != nil {
		t.Fatal(err)
	}
	defer outer.Close()
	got := ""
	for outer.Next() {
		var name, value string
		if err := outer.Scan(&name, &value); err != nil {
			t.Fatal(err)
		}
		var last string // the same text, while its rows are read
		if err := db.Read().QueryRowContext(ctx, all, name).Scan(&last, &value); err != nil {
			t.Fatal(err)
		}
		got += name + last + " "
	}
	if err := outer.Err(); err != nil || got != "a0a0 a1a1 a2a2 " {
		t.Errorf("%q, %v", got, err)
	}
}
