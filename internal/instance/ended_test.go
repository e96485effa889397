package instance

import (
	"errors"
	"testing"
	"time"

	"dstack/internal/api"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// TestReleasedHoldsAreKept keeps what a job held of a paid machine, once, and nothing of hosts that
// cost nothing.
func TestReleasedHoldsAreKept(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		paid := Instance{ID: "paid", ProjectID: "p", FleetID: "f", Name: "f-0", Status: api.InstanceIdle, Blocks: 4, CreatedAt: time.Now()}
		host := Instance{ID: "host", ProjectID: "p", FleetID: "g", Name: "g-0", Status: api.InstanceIdle, Blocks: 1, CreatedAt: time.Now(), Data: Data{Remote: &RemoteHost{}}}
		err := db.Write(t.Context(), func(tx *store.Tx) error {
			return errors.Join(
				insert(t.Context(), tx, &paid), insert(t.Context(), tx, &host),
				assign(t.Context(), tx, &paid, Assignment{JobID: "a", Blocks: 3}, "r"),
				assign(t.Context(), tx, &host, Assignment{JobID: "b", Blocks: 1}, "r"),
				unassign(t.Context(), tx, paid, "a"), unassign(t.Context(), tx, paid, "a"),
				unassign(t.Context(), tx, host, "b"),
			)
		})
		if err != nil {
			t.Fatal(err)
		}
		var held, ended int
		var run, project string
		var blocks, of int
		var from, to int64
		row := db.Read().QueryRowContext(t.Context(), `
SELECT (SELECT count(*) FROM assignment), (SELECT count(*) FROM assignment_ended), run_id, project_id, blocks, of_blocks, created_at, ended_at
FROM   assignment_ended WHERE job_id = 'a' AND instance_id = 'paid'`)
		if err := row.Scan(&held, &ended, &run, &project, &blocks, &of, &from, &to); err != nil {
			t.Fatal(err)
		}
		if held != 0 || ended != 1 || run != "r" || project != "p" || blocks != 3 || of != 4 || from == 0 || to < from {
			t.Errorf("%d are held, %d were: %d of %d blocks by run %q, project %q, from %d to %d", held, ended, blocks, of, run, project, from, to)
		}
	})
}
