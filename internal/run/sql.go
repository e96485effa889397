package run

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"dstack/internal/agentapi"
	"dstack/internal/engine"
	"dstack/internal/store"
)

// A row is its state and its document, which is read only where it is not known: see [rows].
const (
	runState   = `id, project_id, user_id, name, status, priority, repo_id, deleted, submitted_at, ` + store.Version + ` AS version`
	runColumns = runState + `, data`
	knownRun   = `SELECT ` + runState + `, CASE WHEN ` + store.Version + ` = $2 THEN NULL ELSE data END FROM run WHERE id = $1`
)

const insertRun = `
INSERT INTO run (id, project_id, user_id, name, status, priority, repo_id, submitted_at, shard, data)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`

const updateRun = `
UPDATE run
SET    status = $1, priority = $2, deleted = $3, data = $4, version = ` + store.NextVersion + `
WHERE  id = $5 AND ` + store.Version + ` = $6`

const (
	jobState   = `id, run_id, project_id, replica_num, job_num, submission_num, status, instance_id, submitted_at, ` + store.Version + ` AS version, observed`
	jobColumns = jobState + `, data`
	knownJob   = `SELECT ` + jobState + `, CASE WHEN ` + store.Version + ` = $2 THEN NULL ELSE data END FROM job WHERE id = $1`
	byAttempt  = `ORDER BY run_id, replica_num, job_num, submission_num`
)

const insertJob = `
INSERT INTO job (id, run_id, project_id, replica_num, job_num, submission_num, status, submitted_at, shard, data)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`

const updateJob = `
UPDATE job
SET    status = $1, instance_id = $2, data = $3, version = ` + store.NextVersion + `
WHERE  id = $4 AND ` + store.Version + ` = $5`

// selectObserved and observeJob are no work of a reconciler: they are for what a host said.
const (
	selectObserved = `SELECT observed FROM job WHERE id = $1 AND instance_id = $2`
	observeJob     = `UPDATE job SET observed = $1 WHERE id = $2`
)

// waitingJobs is so much of a project's queue, in its order; the run's id is empty where there is no run.
const waitingJobs = `
SELECT j.id, CAST(j.version AS BIGINT), COALESCE(r.id, ''), CAST(COALESCE(r.version, 0) AS BIGINT)
FROM   job j LEFT JOIN run r ON r.id = j.run_id
WHERE  j.project_id = $1 AND j.status = 'submitted'
ORDER  BY r.priority DESC, r.submitted_at, r.id, j.replica_num, j.job_num LIMIT $2`

// jobsOn are those of some jobs that were placed on an instance.
const jobsOn = `SELECT id FROM job WHERE instance_id = $1 AND id IN (%s)`

// queuedRuns are the ids of a project's queue in its order, a space between.
const queuedRuns = `
SELECT COALESCE(string_agg(r.id, ' ' ORDER BY r.priority DESC, r.submitted_at, r.id), '')
FROM   run r
WHERE  r.project_id = $1 AND r.status NOT IN ('terminating', 'terminated', 'failed', 'done')
  AND  EXISTS (SELECT 1 FROM job j WHERE j.run_id = r.id AND j.status = 'submitted')`

func scanRun(row interface{ Scan(...any) error }) (Run, error) {
	var r Run
	var at int64
	err := r.whole(store.Scan(row, &r.ID, &r.ProjectID, &r.UserID, &r.Name, &r.Status, &r.Priority, &r.RepoID, &r.Deleted, &at, &r.Version, store.JSON(&r.Data)))
	if errors.Is(err, sql.ErrNoRows) {
		return Run{}, store.ErrNotFound
	}
	if err != nil {
		return Run{}, fmt.Errorf("read a run: %w", err)
	}
	r.SubmittedAt = store.Time(at)
	return r, nil
}

func getRun(ctx context.Context, q store.Querier, where string, args ...any) (Run, error) {
	return scanRun(q.QueryRowContext(ctx, "SELECT "+runColumns+" FROM run WHERE "+where, args...))
}

func listRuns(ctx context.Context, q store.Querier, tail string, args ...any) ([]Run, error) {
	return readRuns(ctx, q, "SELECT "+runColumns+" FROM run "+tail, args...)
}

func readRuns(ctx context.Context, q store.Querier, query string, args ...any) ([]Run, error) {
	var list []Run
	rows, err := q.QueryContext(ctx, query, args...)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		r, err := scanRun(rows)
		list = append(list, r)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list runs: %w", err)
	}
	return list, nil
}

func (r *Run) insert(ctx context.Context, tx *store.Tx) error {
	_, err := tx.ExecContext(ctx, insertRun, r.ID, r.ProjectID, r.UserID, r.Name, r.Status, r.Priority, r.RepoID, store.Micros(r.SubmittedAt), engine.Shard(r.ID), store.JSON(&r.Data))
	if err != nil {
		return fmt.Errorf("store run %s: %w", r.Name, err)
	}
	r.Version = 1
	return nil
}

func (r *Run) update(ctx context.Context, tx *store.Tx) error {
	r.Data.Damage = "" // the stand-in takes the place of what could not be read
	if err := store.Guarded(tx.ExecContext(ctx, updateRun, r.Status, r.Priority, r.Deleted, store.JSON(&r.Data), r.ID, r.Version)); err != nil {
		return fmt.Errorf("store run %s: %w", r.Name, err)
	}
	r.Version++
	return nil
}

func scanJob(row interface{ Scan(...any) error }) (Job, error) {
	var j Job
	var at int64
	var observed string
	err := j.whole(store.Scan(row, &j.ID, &j.RunID, &j.ProjectID, &j.Replica, &j.Num, &j.Attempt, &j.Status, &j.InstanceID, &at, &j.Version, &observed, store.JSON(&j.Data)))
	if errors.Is(err, sql.ErrNoRows) {
		return Job{}, store.ErrNotFound
	}
	if err != nil {
		return Job{}, fmt.Errorf("read a job: %w", err)
	}
	j.SubmittedAt = store.Time(at)
	if observed != "" && !j.Finished() { // of one that is over nobody asks
		var t agentapi.Task
		if json.Unmarshal([]byte(observed), &t) == nil { // otherwise its host says it again
			j.Observed = &t
		}
	}
	return j, nil
}

func getJob(ctx context.Context, q store.Querier, id string) (Job, error) {
	return scanJob(q.QueryRowContext(ctx, "SELECT "+jobColumns+" FROM job WHERE id = $1", id))
}

// jobsOf returns the jobs of runs, by replica, number and attempt.
func jobsOf(ctx context.Context, q store.Querier, runIDs ...string) (map[string][]Job, error) {
	byRun := map[string][]Job{}
	for batch := range slices.Chunk(runIDs, 500) {
		list, err := readJobs(ctx, q, "SELECT "+jobColumns+" FROM job WHERE run_id IN ("+store.Marks(1, len(batch))+") "+byAttempt, store.Args(batch)...)
		if err != nil {
			return nil, err
		}
		for _, j := range list {
			byRun[j.RunID] = append(byRun[j.RunID], j)
		}
	}
	return byRun, nil
}

func readJobs(ctx context.Context, q store.Querier, query string, args ...any) ([]Job, error) {
	var list []Job
	rows, err := q.QueryContext(ctx, query, args...)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		j, err := scanJob(rows)
		list = append(list, j)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	return list, nil
}

// jobsByID and runsByID read at most 500 rows each.
func jobsByID(ctx context.Context, q store.Querier, ids []string) ([]*Job, error) {
	list, err := readJobs(ctx, q, "SELECT "+jobColumns+" FROM job WHERE id IN ("+store.Marks(1, len(ids))+")", store.Args(ids)...)
	return pointers(list), err
}

func runsByID(ctx context.Context, q store.Querier, ids []string) ([]*Run, error) {
	list, err := listRuns(ctx, q, "WHERE id IN ("+store.Marks(1, len(ids))+")", store.Args(ids)...)
	return pointers(list), err
}

func pointers[T any](list []T) []*T {
	out := make([]*T, len(list))
	for i := range list {
		out[i] = &list[i]
	}
	return out
}

func (j *Job) insert(ctx context.Context, tx *store.Tx) error {
	_, err := tx.ExecContext(ctx, insertJob, j.ID, j.RunID, j.ProjectID, j.Replica, j.Num, j.Attempt, j.Status, store.Micros(j.SubmittedAt), engine.Shard(j.ID), store.JSON(&j.Data))
	if err != nil {
		return fmt.Errorf("store job %s: %w", j.Data.Spec.JobName, err)
	}
	j.Version = 1
	return nil
}

func (j *Job) update(ctx context.Context, tx *store.Tx) error {
	j.Data.Damage = "" // the stand-in takes the place of what could not be read
	if err := store.Guarded(tx.ExecContext(ctx, updateJob, j.Status, j.InstanceID, store.JSON(&j.Data), j.ID, j.Version)); err != nil {
		return fmt.Errorf("store job %s: %w", j.Data.Spec.JobName, err)
	}
	j.Version++
	return nil
}

// waitingProjects are those that have waiting jobs.
const waitingProjects = `SELECT DISTINCT project_id FROM job WHERE status = 'submitted'`
