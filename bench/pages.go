package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"path/filepath"
	"time"

	"github.com/ncruces/go-sqlite3/driver"
)

// What dashboards and `dstack ps -a` ask for, on a server that has seen much.
const (
	storedRuns   = 10_000
	manyRequests = 10_000 // that should leave no trace in memory
)

// page asks for the hundred runs that were submitted last.
var page = map[string]any{"project_name": "main", "only_active": false, "job_submissions_limit": 1, "limit": 100}

// plan asks where a task would run.
var plan = map[string]any{"max_offers": 3, "run_spec": map[string]any{
	"configuration": map[string]any{"type": "task", "commands": []string{"true"}, "image": "job:1"}, "profile": map[string]any{"name": "default"}}}

func oursPages(ctx context.Context, o options, t *table) error {
	w, err := newWorld(o.Dstack)
	if err != nil {
		return err
	}
	defer w.close()
	if _, err := w.write("server/config.yml", "projects:\n  - name: main\n    backends: [{type: local}]\n"); err != nil {
		return err
	}
	if _, err := w.start(ctx); err != nil {
		return err
	}
	if _, err := w.write("template.dstack.yml", "type: task\nname: template\nimage: job:1\ncommands: [\"true\"]\n"+resources); err != nil {
		return err
	}
	if _, err := w.must(ctx, "apply", "-y", "-d", "-f", "template.dstack.yml"); err != nil {
		return err
	}
	if _, _, err := w.until(ctx, "template", "done", "failed"); err != nil {
		return err
	}
	w.stop()
	if err := fillHistory(ctx, w.database(), storedRuns, storedRuns); err != nil {
		return err
	}
	if _, err := w.start(ctx); err != nil {
		return err
	}
	if err := pages(ctx, w, 300, (*table).add, t); err != nil {
		return err
	}
	took, err := w.times(ctx, 300, "/api/project/main/runs/get_plan", plan)
	if err != nil {
		return err
	}
	t.add("plan, 10,000 runs stored", took...)
	before, _, err := usage(w.server.Process.Pid)
	if err != nil {
		return err
	}
	if _, err := w.times(ctx, manyRequests, "/api/runs/list", page); err != nil {
		return err
	}
	after, _, err := usage(w.server.Process.Pid)
	if err != nil {
		return err
	}
	t.add("memory that 10,000 such pages leave", max(0, after-before))
	return nil
}

// pages measures the first page, and what is left in memory.
func pages(ctx context.Context, w *world, n int, add func(*table, string, ...float64), t *table) error {
	took, err := w.times(ctx, n, "/api/runs/list", page)
	if err != nil {
		return err
	}
	add(t, "page of 100 of 10,000 runs", took...)
	add(t, "the same, slowest of a hundred", quantile(took, 0.99))
	memory, _, err := usage(w.server.Process.Pid)
	add(t, "memory with 10,000 runs, after pages", memory)
	return err
}

// times sends one request after the other and returns how long the answers took, in seconds.
func (w *world) times(ctx context.Context, n int, path string, body any) ([]float64, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode: %w", err)
	}
	took := make([]float64, n)
	for i := range took {
		begin := time.Now()
		if err := w.post(ctx, path, data); err != nil {
			return nil, err
		}
		took[i] = time.Since(begin).Seconds()
	}
	return took, nil
}

// publishedRun is a finished run as the original stores it.
//
//go:embed testdata/published_run.json
var publishedRun []byte

// originalPages measures the same of the original, which runs.
func originalPages(ctx context.Context, w *world, t *table) error {
	var null any
	err := w.api(ctx, "/api/project/main/repos/init", map[string]any{"repo_id": "none", "repo_info": map[string]any{"repo_type": "virtual"}}, &null)
	if err != nil {
		return err
	}
	if err := fillOriginal(ctx, filepath.Join(w.dir, "server", "data", "sqlite.db"), storedRuns); err != nil {
		return err
	}
	return pages(ctx, w, 30, func(t *table, name string, values ...float64) { t.original(name, values) }, t)
}

// fillOriginal adds finished runs, with a job each, to the original's database.
func fillOriginal(ctx context.Context, path string, n int) error {
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(publishedRun, &doc); err != nil {
		return fmt.Errorf("read the run: %w", err)
	}
	db, err := driver.Open("file:" + path + "?_pragma=busy_timeout(30000)&_txlock=immediate")
	if err != nil {
		return fmt.Errorf("open the original's database: %w", err)
	}
	defer db.Close()
	const id = `lower(hex(randomblob(16)))`
	const at = `datetime('now', '-' || (i + 600) || ' seconds') || '.000000'`
	for _, s := range []struct {
		text string
		args []any
	}{
		{numbers + `INSERT INTO runs (id, project_id, repo_id, user_id, submitted_at, run_name, status, run_spec, deleted, last_processed_at, termination_reason,
  resubmission_attempt, priority, deployment_num, desired_replica_count)
SELECT ` + id + `, r.project_id, r.id, u.id, ` + at + `, 'old-' || i, 'DONE', $2, 0, ` + at + `, 'ALL_JOBS_DONE', 0, 0, 0, 1
FROM n, (SELECT * FROM repos LIMIT 1) r, (SELECT id FROM users LIMIT 1) u`, []any{n, string(doc["run_spec"])}},
		{`INSERT INTO jobs (id, project_id, run_id, run_name, job_num, job_name, submission_num, submitted_at, last_processed_at, status, termination_reason,
  job_spec_data, job_provisioning_data, replica_num, instance_assigned, job_runtime_data, exit_status, deployment_num)
SELECT ` + id + `, project_id, id, run_name, 0, run_name || '-0-0', 0, submitted_at, last_processed_at, 'DONE', 'DONE_BY_RUNNER', $1, $2, 0, 1, $3, 0, 0 FROM runs`,
			[]any{string(doc["job_spec"]), string(doc["job_provisioning_data"]), string(doc["job_runtime_data"])}},
	} {
		if _, err := db.ExecContext(ctx, s.text, s.args...); err != nil {
			return fmt.Errorf("fill the original's database: %w", err)
		}
	}
	return nil
}
