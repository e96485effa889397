package run

import (
	"slices"
	"testing"

	"dstack/internal/engine"
	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// TestMisfits lists jobs that contradict other rows, and no others.
func TestMisfits(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		type row struct {
			id, run, status, instance, held string
			attempt                         int
		}
		rows := []row{
			{id: "fits", run: "running", status: "running", instance: "i", held: "i"},
			{id: "waits", run: "running", status: "submitted"},
			{id: "ends-later", run: "over", status: "terminating", instance: "i", held: "i"},
			{id: "ends-beside-another", run: "again", status: "terminating", instance: "i", held: "i"},
			{id: "the-other", run: "again", status: "submitted", attempt: 1},
			{id: "is-over", run: "over", status: "done", instance: "i"},
			{id: "of-no-run", run: "nothing", status: "running", instance: "i", held: "i"},
			{id: "of-a-run-that-is-over", run: "done", status: "pulling", instance: "i", held: "i"},
			{id: "waits-for-nothing", run: "failed", status: "submitted"},
			{id: "replaced", run: "twice", status: "running", instance: "i", held: "i"},
			{id: "replaces", run: "twice", status: "running", instance: "i", held: "i", attempt: 2},
			{id: "is-elsewhere", run: "elsewhere", status: "running", instance: "j", held: "i"},
			{id: "ends-elsewhere", run: "ends", status: "terminating", instance: "j", held: "i"},
			{id: "holds-nothing", run: "nothing-held", status: "provisioning", instance: "i"},
			{id: "waits-somewhere", run: "somewhere", status: "submitted", instance: "i"},
			{id: "waits-and-holds", run: "holds", status: "submitted", held: "i"},
		}
		want := []string{
			"ends-elsewhere", "holds-nothing", "is-elsewhere", "of-a-run-that-is-over", "of-no-run", "replaced", "waits-and-holds", "waits-for-nothing", "waits-somewhere",
		}
		over := map[string]string{"over": "done", "done": "done", "failed": "failed"}
		made := map[string]bool{"nothing": true}
		var shards []int
		for n := range engine.Shards {
			shards = append(shards, n)
		}
		ctx := t.Context()
		err := db.Write(ctx, func(tx *store.Tx) error {
			for i, r := range rows {
				if !made[r.run] {
					status := over[r.run]
					if status == "" {
						status = "running"
					}
					_, err := tx.ExecContext(ctx, `INSERT INTO run (id, project_id, user_id, name, status, submitted_at, shard, data) VALUES ($1, 'p', 'u', $1, $2, 1, 0, '{}')`, r.run, status)
					if err != nil {
						return err
					}
					made[r.run] = true
				}
				num := 0
				if r.run == "running" || r.run == "over" {
					num = i
				}
				_, err := tx.ExecContext(ctx, `
INSERT INTO job (id, run_id, project_id, replica_num, job_num, submission_num, status, instance_id, submitted_at, shard, data)
VALUES ($1, $2, 'p', 0, $3, $4, $5, $6, 1, 0, '{}')`, r.id, r.run, num, r.attempt, r.status, r.instance)
				if err != nil {
					return err
				}
				if r.held != "" {
					if _, err := tx.ExecContext(ctx, `INSERT INTO assignment (job_id, instance_id, blocks, created_at) VALUES ($1, $2, 1, 1)`, r.id, r.held); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		got, err := engine.HashedQuery(listMisfits)(ctx, db.Read(), shards)
		if err != nil {
			t.Fatal(err)
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("misfits %q, want %q", got, want)
		}
		var held, status string
		var again bool
		if err := db.Read().QueryRowContext(ctx, getMisfit, "replaced").Scan(&held, &status, &again); err != nil || held != "i" || status != "running" || !again {
			t.Errorf("what is replaced holds %q, its run is %q, replaced %v: %v", held, status, again, err)
		}
	})
}
