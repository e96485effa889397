package cost

import (
	"context"
	"math"
	"sync"
	"testing"
	"time"

	"dstack/internal/api"
	"dstack/internal/ledger"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// TestGivenUpMeanwhile has a job give up its part of a machine, and take it again, while it is asked what it
// costs: it is found once, whenever it is looked for.
func TestGivenUpMeanwhile(t *testing.T) {
	const looks, daysHeld = 100, 10
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		write := func(ctx context.Context, statements ...string) {
			t.Helper()
			err := db.Write(ctx, func(tx *store.Tx) error {
				for _, statement := range statements {
					if _, err := tx.ExecContext(ctx, statement); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		}
		begin := time.Now().Add(-daysHeld * 24 * time.Hour)
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			if _, err := tx.ExecContext(t.Context(), `INSERT INTO instance (id, project_id, fleet_id, num, name, status, backend, created_at, blocks, shard, data)
				VALUES ('m', 'p', 'f', 0, 'm', 'busy', 'lambda', 1, 8, 0, '{}')`); err != nil {
				return err
			}
			if _, err := tx.ExecContext(t.Context(), `INSERT INTO intent (id, shard, version, kind, backend, region, project_id, owner_kind, owner_id, state, wanted, idle, price, created_at, billed_from, doc)
				VALUES ('i', 0, 1, 'instance', 'lambda', 'r', 'p', 'instance', 'm', 'created', TRUE, TRUE, 8, 1, $1, '{"instance": {"ref": {"id": "x"}}}')`, store.Micros(begin)); err != nil {
				return err
			}
			_, err := tx.ExecContext(t.Context(), `INSERT INTO assignment (job_id, instance_id, blocks, created_at, run_id) VALUES ('j', 'm', 2, $1, 'run')`, store.Micros(begin))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer stop()
		wg.Go(func() {
			for ctx.Err() == nil {
				write(ctx, `INSERT INTO assignment_ended (job_id, instance_id, project_id, run_id, blocks, of_blocks, created_at, ended_at)
					SELECT job_id, instance_id, 'p', run_id, blocks, 8, created_at, 9000000000000000 FROM assignment`, `DELETE FROM assignment`)
				write(ctx, `INSERT INTO assignment (job_id, instance_id, blocks, created_at, run_id)
					SELECT job_id, instance_id, blocks, created_at, run_id FROM assignment_ended`, `DELETE FROM assignment_ended`)
			}
		})
		s, want := &Service{Config{DB: db}}, 2.0*24*daysHeld // dollars, of 8 an hour
		for range looks {
			now := time.Now()
			p, err := s.load(t.Context(), nil, true, ledger.Which{Projects: []string{"p"}, To: now, Now: now})
			if err != nil {
				t.Fatal(err)
			}
			usd := 0.0
			for _, part := range p.parts {
				if part.RunID == "run" {
					usd += part.USD()
				}
			}
			if math.Abs(usd-want) > 1 {
				t.Fatalf("the report says $%.2f, want $%.2f", usd, want)
			}
			run := &api.Run{ID: "run", Cost: 1}
			if err := s.Run(t.Context(), run); err != nil {
				t.Fatal(err)
			}
			usd = 0
			if run.MachineCost != nil {
				usd = *run.MachineCost
			}
			if math.Abs(usd-want) > 1 {
				t.Fatalf("the run says $%.2f, want $%.2f", usd, want)
			}
		}
	})
}
