package sim

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/ncruces/go-sqlite3/driver"
)

// rows are what the server believes, read in one transaction. They are shared between looks
// and not changed.
type rows struct {
	intents   []intentRow
	instances []instanceRow
	jobs      []jobRow // every attempt, by run, replica, number and attempt
	runs      map[string]runRow
	holds     []holdRow
	stale     []string
}

type intentRow struct {
	id, backend, owner, state, resource string
	wanted                              bool
	price                               float64
	billedFrom, billedTo                int64 // microseconds, 0: not yet
}

type instanceRow struct {
	id, name, status, intent string
	deleted                  bool
	blocks                   int
}

type jobRow struct {
	id, run, name, status, instance, reason string
	replica, num, attempt                   int
	version                                 int64
}

func (j jobRow) finished() bool {
	switch j.status {
	case "terminated", "aborted", "failed", "done":
		return true
	}
	return false
}

// placed says that the job has a place on an instance.
func (j jobRow) placed() bool { return j.status != "submitted" && !j.finished() && j.instance != "" }

type runRow struct {
	id, name, status string
	priority         int
	submitted        int64
	version          int64
	class            string // equal for runs that ask for the same
}

type holdRow struct {
	job, instance string
	blocks        int
}

// reader looks into the database beside the server, also while that is down. What did not
// change is not read again.
type reader struct {
	db      *sql.DB
	version int64 // of the database, when last was read
	last    rows
	jobs    map[string]jobRow
	runs    map[string]runRow
}

func openReader(path string) (*reader, error) {
	db, err := driver.Open("file:" + path + "?mode=ro&_pragma=busy_timeout(5000)")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	return &reader{db: db, jobs: map[string]jobRow{}, runs: map[string]runRow{}}, nil
}

// read returns what is stored now.
func (r *reader) read(ctx context.Context) (rows, error) {
	var version int64
	if err := r.db.QueryRowContext(ctx, `PRAGMA data_version`).Scan(&version); err != nil {
		return rows{}, err
	}
	if version == r.version {
		return r.last, nil
	}
	tx, err := r.db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return rows{}, err
	}
	defer func() { _ = tx.Rollback() }() // nothing was written
	now := rows{runs: map[string]runRow{}}
	if err := r.all(ctx, tx, &now); err != nil {
		return rows{}, err
	}
	r.version, r.last = version, now
	return now, nil
}

func (r *reader) all(ctx context.Context, tx *sql.Tx, now *rows) error {
	each := func(query string, scan func(*sql.Rows) error) error {
		found, err := tx.QueryContext(ctx, query)
		if err != nil {
			return err
		}
		defer func() { _ = found.Close() }() // Err says what matters
		for found.Next() {
			if err := scan(found); err != nil {
				return err
			}
		}
		return found.Err()
	}
	for _, table := range []struct {
		query string
		scan  func(*sql.Rows) error
	}{
		{`SELECT id, backend, owner_id, state, wanted, resource_id, price, billed_from, billed_to FROM intent ORDER BY created_at, id`, func(rows *sql.Rows) error {
			var v intentRow
			err := rows.Scan(&v.id, &v.backend, &v.owner, &v.state, &v.wanted, &v.resource, &v.price, &v.billedFrom, &v.billedTo)
			now.intents = append(now.intents, v)
			return err
		}},
		{`SELECT id, name, status, intent_id, deleted, blocks FROM instance ORDER BY created_at, id`, func(rows *sql.Rows) error {
			var v instanceRow
			err := rows.Scan(&v.id, &v.name, &v.status, &v.intent, &v.deleted, &v.blocks)
			now.instances = append(now.instances, v)
			return err
		}},
		{`SELECT job_id, instance_id, blocks FROM assignment`, func(rows *sql.Rows) error {
			var v holdRow
			err := rows.Scan(&v.job, &v.instance, &v.blocks)
			now.holds = append(now.holds, v)
			return err
		}},
		{`SELECT name FROM setting WHERE name LIKE 'stale/%'`, func(rows *sql.Rows) error {
			var v string
			err := rows.Scan(&v)
			now.stale = append(now.stale, v)
			return err
		}},
	} {
		if err := each(table.query, table.scan); err != nil {
			return err
		}
	}
	// Of jobs and runs the documents are read where the version is new.
	var order, stale []string
	err := each(`SELECT id, version FROM job ORDER BY run_id, replica_num, job_num, submission_num`, func(rows *sql.Rows) error {
		var id string
		var version int64
		err := rows.Scan(&id, &version)
		order = append(order, id)
		if r.jobs[id].version != version {
			stale = append(stale, id)
		}
		return err
	})
	if err != nil {
		return err
	}
	if len(stale) > 0 {
		err := each(`SELECT id, run_id, status, instance_id, replica_num, job_num, submission_num, version, coalesce(json_extract(data, '$.reason'), ''),
			json_extract(data, '$.spec.job_name') FROM job WHERE id IN ('`+strings.Join(stale, "', '")+`')`, func(rows *sql.Rows) error {
			var v jobRow
			err := rows.Scan(&v.id, &v.run, &v.status, &v.instance, &v.replica, &v.num, &v.attempt, &v.version, &v.reason, &v.name)
			r.jobs[v.id] = v
			return err
		})
		if err != nil {
			return err
		}
	}
	for _, id := range order {
		now.jobs = append(now.jobs, r.jobs[id])
	}
	stale = nil
	err = each(`SELECT id, status, priority, version FROM run`, func(rows *sql.Rows) error {
		var v runRow
		err := rows.Scan(&v.id, &v.status, &v.priority, &v.version)
		known, ok := r.runs[v.id]
		v.name, v.submitted, v.class = known.name, known.submitted, known.class
		now.runs[v.id] = v
		if !ok {
			stale = append(stale, v.id)
		}
		return err
	})
	if err != nil || stale == nil {
		return err
	}
	slices.Sort(stale)
	return each(fmt.Sprintf(`SELECT id, name, submitted_at, coalesce(json_extract(data, '$.spec.configuration.env.CLASS'), '') FROM run WHERE id IN ('%s')`,
		strings.Join(stale, "', '")), func(rows *sql.Rows) error {
		v := runRow{}
		err := rows.Scan(&v.id, &v.name, &v.submitted, &v.class)
		r.runs[v.id] = v
		full := now.runs[v.id]
		full.name, full.submitted, full.class = v.name, v.submitted, v.class
		now.runs[v.id] = full
		return err
	})
}
