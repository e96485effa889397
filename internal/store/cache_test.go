package store_test

import (
	"errors"
	"fmt"
	"testing"

	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

func TestCache(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		c := store.Cache[string]{Max: 3}
		knows := func(what, id, value string, version int64) {
			t.Helper()
			if v, n := c.Get(id); v != value || n != version {
				t.Errorf("%s: %q of version %d, want %q of %d", what, v, n, value, version)
			}
		}
		knows("at first", "a", "", store.Unknown)
		c.Read(db.Read(), "a", 2, "two")
		knows("read", "a", "two", 2)
		c.Read(db.Read(), "a", 1, "one")
		knows("a version that somebody made less by hand", "a", "one", 1)
		c.Read(db.Read(), "a", 2, "two")
		undone := errors.New("undone")
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			c.Read(tx, "a", 3, "in a transaction")
			c.Written(tx, "a", 3, "written")
			return undone
		})
		if !errors.Is(err, undone) {
			t.Fatal(err)
		}
		knows("after a transaction that was undone", "a", "two", 2)
		err = db.Write(t.Context(), func(tx *store.Tx) error {
			c.Written(tx, "a", 3, "three")
			knows("before the commit", "a", "two", 2)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		knows("after the commit", "a", "three", 3)
		for n := range 5 {
			id := fmt.Sprint(n)
			c.Read(db.Read(), id, 1, id)
			knows("the latest", id, id, 1)
		}
		known := 0
		for _, id := range []string{"a", "0", "1", "2", "3", "4"} {
			if _, n := c.Get(id); n != store.Unknown {
				known++
			}
		}
		if known != c.Max {
			t.Errorf("%d rows are known, want %d", known, c.Max)
		}
	})
}
