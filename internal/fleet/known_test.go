package fleet

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// What is remembered is as good as what would be read.
func TestKnownFleetsAreAsStored(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx, k := t.Context(), newKnown()
		exec := func(text string, args ...any) {
			t.Helper()
			err := db.Write(ctx, func(tx *store.Tx) error {
				_, err := tx.ExecContext(ctx, text, args...)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		check := func(what string) {
			t.Helper()
			const tail = "WHERE NOT deleted ORDER BY created_at, id"
			want, err1 := query(ctx, db.Read(), tail)
			got, err2 := k.list(ctx, db.Read(), tail)
			if err1 != nil || err2 != nil {
				t.Fatal(err1, err2)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s (-stored +known):\n%s", what, diff)
			}
		}
		for n := range 3 {
			exec(`INSERT INTO fleet (id, project_id, name, status, created_at, shard, data) VALUES ($1, 'p', $1, 'active', $2, 0, $3)`,
				fmt.Sprint("f", n), 1+n/2, `{"configuration": {"type": "fleet", "nodes": 1}, "profile": {"name": "default"}}`)
		}
		check("new")
		check("again")
		exec(`UPDATE fleet SET status = 'terminating', version = version + 1 WHERE id = 'f1'`)
		check("changed")
		exec(`UPDATE fleet SET deleted = TRUE, version = version + 1 WHERE id = 'f0'`)
		check("deleted")
	})
}
