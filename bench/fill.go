package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"github.com/ncruces/go-sqlite3/driver"

	"dstack/internal/engine"
	"dstack/internal/store"
)

// What takes too long to make through the API is written into the database as an earlier
// server would have left it: copies of rows that this server made.

func open(ctx context.Context, path string, fn func(*store.DB) error) error {
	db, err := store.Open(ctx, store.Config{URL: path, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer db.Close()
	return fn(db)
}

// fillQueue adds runs that wait, under the running server: copies of the run "template" as it
// was when it was submitted, with priorities from 0 to 100. The server sees them when a run is
// submitted.
func fillQueue(ctx context.Context, path string, n int) error {
	db, err := driver.Open("file:" + path + "?_pragma=busy_timeout(10000)&_txlock=immediate")
	if err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	defer db.Close()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	defer func() { _ = tx.Rollback() }() // a no-op after Commit
	var runID, runData, jobData string
	err = tx.QueryRowContext(ctx, `
SELECT r.id, r.data, j.data FROM run r JOIN job j ON j.run_id = r.id WHERE r.name = 'template' AND NOT r.deleted`).Scan(&runID, &runData, &jobData)
	if err != nil {
		return fmt.Errorf("read the template: %w", err)
	}
	if runData, err = without(runData, "reason", "waiting", "fleet_id", "fleet_name"); err != nil {
		return err
	}
	if jobData, err = without(jobData, "provisioning", "runtime", "reason", "exit", "finished_at", "placed_at", "stopping_at", "sent"); err != nil {
		return err
	}
	for i := range n {
		if err := queued(ctx, tx, i, runID, runData, jobData); err != nil {
			return err
		}
	}
	return tx.Commit()
}

func queued(ctx context.Context, tx *sql.Tx, i int, template, runData, jobData string) error {
	run, job, now := uuid.NewString(), uuid.NewString(), store.Micros(time.Now())
	_, err := tx.ExecContext(ctx, `
INSERT INTO run (id, project_id, user_id, name, status, priority, repo_id, submitted_at, shard, data)
SELECT $1, project_id, user_id, $2, 'submitted', $3, repo_id, $4, $5, $6 FROM run WHERE id = $7`,
		run, fmt.Sprintf("q-%d", i), rand.IntN(101), now, engine.Shard(run), runData, template)
	if err != nil {
		return fmt.Errorf("add a run: %w", err)
	}
	_, err = tx.ExecContext(ctx, `
INSERT INTO job (id, run_id, project_id, replica_num, job_num, submission_num, status, submitted_at, shard, data)
SELECT $1, $2, project_id, 0, 0, 0, 'submitted', $3, $4, $5 FROM run WHERE id = $6`, job, run, now, engine.Shard(job), jobData, template)
	if err != nil {
		return fmt.Errorf("add a job: %w", err)
	}
	return nil
}

// without removes keys from a document.
func without(doc string, keys ...string) (string, error) {
	var m map[string]any
	if err := json.Unmarshal([]byte(doc), &m); err != nil {
		return "", fmt.Errorf("read a document: %w", err)
	}
	for _, k := range keys {
		delete(m, k)
	}
	out, err := json.Marshal(m)
	return string(out), err
}

// placed is what the events tell of a queue.
type placed struct {
	perSecond  float64 // until the free hosts were used up
	inversions int     // runs placed before one of a higher priority that waited as well
	first      int     // runs in the first second
}

func readPlacements(ctx context.Context, path string, hosts int) (placed, error) {
	var p placed
	err := open(ctx, path, func(db *store.DB) error {
		var times []int64
		lowest := 1 << 30
		rows, err := db.Read().QueryContext(ctx, `
SELECT e.recorded_at, r.priority
FROM   event e JOIN event_target t ON t.event_id = e.id JOIN job j ON j.id = t.target_id JOIN run r ON r.id = j.run_id
WHERE  e.message LIKE 'Job assigned to instance%' AND r.name LIKE 'q-%' ORDER BY e.recorded_at, e.rowid`)
		err = store.EachRow(rows, err, func(rows *sql.Rows) error {
			var at int64
			var priority int
			err := rows.Scan(&at, &priority)
			times = append(times, at)
			if priority > lowest {
				p.inversions++
			}
			lowest = min(lowest, priority)
			return err
		})
		if err != nil || len(times) < 2 {
			return err
		}
		for _, at := range times {
			if at-times[0] < 1e6 {
				p.first++
			}
		}
		end := times[min(len(times), hosts)-1]
		p.perSecond = float64(min(len(times), hosts)) / (float64(end-times[0]) / 1e6)
		return nil
	})
	return p, err
}

// numbers counts to $1.
const numbers = `WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1) `

// newUUID is an expression for a random UUID, of version 4 as far as the program cares.
const newUUID = `lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-8' || substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))`

// fillHistory adds finished runs, each with a job, and events that spread over them, ten
// minutes and more old.
func fillHistory(ctx context.Context, path string, events, runs int) error {
	const ago = `(SELECT max(submitted_at) FROM run) - 600000000 - i * 1000000`
	return open(ctx, path, func(db *store.DB) error {
		return db.Write(ctx, func(tx *store.Tx) error {
			for _, s := range []struct {
				text string
				n    int
			}{
				{numbers + `INSERT INTO run (id, project_id, user_id, name, status, priority, repo_id, submitted_at, shard, data)
SELECT ` + newUUID + `, t.project_id, t.user_id, 'old-' || i, 'done', 0, t.repo_id, ` + ago + `, i % 64, t.data
FROM n, run t WHERE t.name = 'template' AND NOT t.deleted`, runs},
				{numbers + `INSERT INTO job (id, run_id, project_id, replica_num, job_num, submission_num, status, submitted_at, shard, data, observed)
SELECT ` + newUUID + `, r.id, r.project_id, 0, 0, 0, 'done', r.submitted_at, r.shard, t.data, t.observed
FROM n, run r, job t WHERE r.name = 'old-' || i AND t.run_id = (SELECT id FROM run WHERE name = 'template' AND NOT deleted)`, runs},
				{numbers + `INSERT INTO event (id, message, recorded_at) SELECT ` + newUUID + `, 'Job status changed PULLING -> RUNNING (' || i || ')', ` + ago + ` FROM n`, events},
				{`INSERT INTO event_target (event_id, num, recorded_at, type, target_id, name, project_id, parent_id)
SELECT e.id, 0, e.recorded_at, 'job', j.id, 'old', j.project_id, j.run_id
FROM   event e JOIN job j ON j.rowid = (SELECT max(rowid) FROM job) - e.rowid % $1 WHERE e.message LIKE 'Job status changed PULLING -> RUNNING (%'`, runs},
			} {
				if _, err := tx.ExecContext(ctx, s.text, s.n); err != nil {
					return fmt.Errorf("fill the database: %w\n%s", err, s.text)
				}
			}
			return nil
		})
	})
}
