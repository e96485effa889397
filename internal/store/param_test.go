package store_test

import (
	"testing"

	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// TestParameters holds the drivers to what our SQL relies on: $n is the n-th argument, in
// any order, repeated, and beyond nine.
func TestParameters(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		var got string
		err := db.Read().QueryRowContext(t.Context(),
			`SELECT /* $1 */ '$1''$2' || -- $3
			        $2 || $12 || $1 || $10 || $3 || $4 || $5 || $6 || $7 || $8 || $9 || $11 || $2`,
			"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l").Scan(&got)
		if err != nil || got != "$1'$2blajcdefghikb" {
			t.Errorf("parameters give %q, %v", got, err)
		}
	})
}

func FuzzNumbered(f *testing.F) {
	f.Add(`UPDATE t SET a = $2, b = 'it''s $5' WHERE id = $1 -- $9`)
	f.Add(`/* $1 */ "$2" $3 '`)
	f.Add(`$`)
	f.Fuzz(func(t *testing.T, query string) {
		got := store.Numbered(query)
		if len(got) != len(query) {
			t.Fatalf("numbered(%q) = %q", query, got)
		}
		for i := range got {
			if got[i] != query[i] && (query[i] != '$' || got[i] != '?') {
				t.Fatalf("numbered(%q) = %q", query, got)
			}
		}
	})
}
