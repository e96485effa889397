package sim

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"dstack/internal/backend/fake"
	"dstack/internal/ledger"
)

// TestRequestsFollowTheQueue has two runs ask a cloud that refuses them, again and again, and a fleet its node:
// the requests of a run say its place in the queue, those of the fleet since when it wants the node.
func TestRequestsFollowTheQueue(t *testing.T) {
	tp := newTemplate(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, tp)
		w.addCloud(fake.Config{Name: cloudNames[0]})
		cloud := w.addCloud(fake.Config{Name: cloudNames[1], Offers: fake.SomeOffers()})
		cloud.Inject(soldOut)
		w.start()
		defer w.end()
		time.Sleep(time.Second)
		w.applyFleet("kept", object{"nodes": object{"min": 1, "max": 1}, "instance_types": []string{"gpu.one"}})
		w.applyFleet("grown", object{"nodes": object{"min": 0, "max": 4}, "instance_types": []string{"gpu.eight"}})
		began := time.Now()
		for _, priority := range []int{10, 89} {
			w.applyRun(fmt.Sprint("run", priority), object{"type": "task", "commands": []string{"work"}, "resources": object{"gpu": "8"}, "priority": priority,
				"retry": object{"on_events": []string{"no-capacity"}, "duration": "3h"}}, script{Run: time.Minute})
		}
		time.Sleep(5 * time.Minute)
		ctx, db := context.Background(), w.current().db
		rows, err := db.Read().QueryContext(ctx, `SELECT id FROM intent ORDER BY created_at, id`)
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
		}
		if err := rows.Close(); err != nil {
			t.Fatal(err)
		}
		count := map[int]int{}
		for _, id := range ids {
			r, err := ledger.Get(ctx, db.Read(), id)
			if err != nil {
				t.Fatal(err)
			}
			rank := r.Doc.Create.Rank
			count[rank.Priority]++
			since := began.Add(time.Second) // both were submitted at once
			if rank.Priority == 0 {
				since = r.CreatedAt
			}
			if since.Sub(rank.Since).Abs() > 2*time.Second {
				t.Errorf("a request of priority %d, of %v, has waited since %v", rank.Priority, r.CreatedAt.Sub(began), rank.Since.Sub(began))
			}
		}
		if count[0] < 2 || count[10] == 0 || count[89] < 2 {
			t.Errorf("requests by priority: %v", count)
		}
	})
}
