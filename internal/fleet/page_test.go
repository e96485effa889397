package fleet

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/api"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
	"dstack/internal/user"
)

// A page is what is left of all fleets by what was asked for; no more of them are read.
func TestPagesOfFleets(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		ctx, k := t.Context(), newKnown()
		err := db.Write(ctx, func(tx *store.Tx) error {
			for n := range 30 {
				_, err := tx.ExecContext(ctx, `INSERT INTO fleet (id, project_id, name, status, created_at, shard, deleted, data) VALUES ($1, $2, $1, 'active', $3, 0, $4, $5)`,
					fmt.Sprintf("f%02d", (n*7)%30), fmt.Sprint("p", n%3), 1+n/4, n%5 == 0, `{"configuration": {"type": "fleet", "nodes": 1}, "profile": {"name": "default"}}`)
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		all, err := query(ctx, db.Read(), "ORDER BY created_at DESC, id")
		if err != nil {
			t.Fatal(err)
		}
		r := rand.New(rand.NewPCG(41, 42))
		shown := 0
		for range 500 {
			req := api.ListFleetsRequest{OnlyActive: r.IntN(2) == 0, Ascending: r.IntN(2) == 0}
			limit := 100
			if r.IntN(3) > 0 {
				limit = r.IntN(8)
				req.Limit = &limit
			}
			if r.IntN(3) > 0 {
				after := all[r.IntN(len(all))]
				req.PrevCreatedAt = new(api.At(after.CreatedAt))
				if r.IntN(3) > 0 {
					req.PrevID = &after.ID
				}
			}
			projects, shared := []string{"p0", "p1"}[:1+r.IntN(2)], []string{"f03", "f04", "f05"}[:r.IntN(4)]
			seen := map[string]bool{}
			for _, id := range append(projects[:len(projects):len(projects)], shared...) {
				seen[id] = true
			}
			var want []Fleet
			for _, f := range all {
				if (seen[f.ProjectID] || seen[f.ID]) && !(req.OnlyActive && f.Deleted) {
					want = append(want, f)
				}
			}
			want = user.Page(want, req.PrevCreatedAt, req.PrevID, &limit, req.Ascending, func(f Fleet) (*api.Time, string) { return new(api.At(f.CreatedAt)), f.ID })
			tail, args := page(req, projects, shared)
			got, err := k.list(ctx, db.Read(), tail, args...)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(want) || len(want) > 0 && !cmp.Equal(want, got) {
				t.Fatalf("%+v of %v and %v (-want +got):\n%s", req, projects, shared, cmp.Diff(want, got))
			}
			shown += len(got)
		}
		if shown < 500 {
			t.Errorf("only %d are shown: the test shows little", shown)
		}
	})
}
