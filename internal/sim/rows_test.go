package sim

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/ncruces/go-sqlite3"

	"dstack/internal/ledger"
)

// rows are what the server believes, read in one transaction. They are shared between looks
// and not changed.
type rows struct {
	intents   []intentRow
	instances []instanceRow
	jobs      []jobRow // every attempt, by run, replica, number and attempt
	runs      map[string]runRow
	holds     []holdRow
	imports   map[importRow]bool
	clusters  map[string]bool // fleets
	stale     []string
}

// importRow is a project that may use a fleet of another.
type importRow struct{ project, fleet string }

type intentRow struct {
	id, kind, backend, region, owner, state, resource string
	group, cluster                                    string // that an instance joins, "" for none
	wanted                                            bool
	price                                             float64
	billedFrom, billedTo                              int64 // microseconds, 0: not yet
	earlier                                           ledger.Prices
}

type instanceRow struct {
	id, name, status, intent, project, fleet string
	job                                      string // that it was made for, "" for none
	host                                     string // address and port of a host of the user, "" of a cloud's machine
	deleted                                  bool
	blocks                                   int
	price                                    float64 // US dollars per hour
}

type jobRow struct {
	id, run, name, status, instance, reason, project string
	replica, num, attempt, deployment                int
	version                                          int64
	since                                            int64  // when it began to wait for a place, Unix microseconds
	buyFrom                                          string // a time of RFC 3339, "" for at once
	gpus                                             int    // of its place
	spot                                             bool   // its place is of a spot instance
	exit                                             string // its code, "" for none
	had                                              bool   // a machine
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
	reason           string // why it ended
	priority         int
	submitted        int64
	version          int64
	class            string // equal for runs that ask for the same
	deployment       int
}

type holdRow struct {
	job, instance string
	blocks        int
}

// reader looks into the database beside the server, also while that is down. It reads only
// when something was stored since, of instances, jobs and runs only the documents whose version
// is new, and keeps its statements: half of a simulation would be spent here otherwise.
type reader struct {
	db      *sqlite3.Conn
	kept    map[string]*sqlite3.Stmt
	version int64 // of the database, when last was read
	last    rows
	docs    map[string]instanceDoc
	jobs    map[string]jobRow
	runs    map[string]runRow
	cluster map[string]string // of intents, which stays
	fleets  map[string]bool   // whether they are clusters, which stays
}

func openReader(path string) (*reader, error) {
	db, err := sqlite3.OpenFlags(path, sqlite3.OPEN_READONLY)
	if err != nil {
		return nil, err
	}
	// SQLite's own way to wait is virtual time, which stands still while others wait for the
	// checker's mutex. Who has the lock needs none: a server that opens the database.
	err = db.BusyHandler(func(_ context.Context, count int) bool {
		runtime.Gosched()
		return count < 1<<20
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &reader{db: db, kept: map[string]*sqlite3.Stmt{}, docs: map[string]instanceDoc{}, jobs: map[string]jobRow{}, runs: map[string]runRow{}, cluster: map[string]string{}, fleets: map[string]bool{}}, nil
}

func (r *reader) close() {
	for _, s := range r.kept {
		_ = s.Close() // nothing was written
	}
	_ = r.db.Close()
}

// each runs a query and calls scan for every row.
func (r *reader) each(scan func(row *sqlite3.Stmt), query string, args ...string) error {
	s := r.kept[query]
	if s == nil {
		var err error
		if s, _, err = r.db.Prepare(query); err != nil {
			return err
		}
		r.kept[query] = s
	}
	for i, arg := range args {
		if err := s.BindText(i+1, arg); err != nil {
			return err
		}
	}
	for s.Step() {
		scan(s)
	}
	return s.Reset() // with the error of Step
}

// changed returns the version of the database, which is another after each commit.
func (r *reader) changed() (version int64, err error) {
	err = r.each(func(row *sqlite3.Stmt) { version = row.ColumnInt64(0) }, `PRAGMA data_version`)
	return version, err
}

// read returns what is stored now.
func (r *reader) read() (rows, error) {
	version, err := r.changed()
	if err != nil || version == r.version {
		return r.last, err
	}
	now := rows{runs: map[string]runRow{}}
	ignore := func(*sqlite3.Stmt) {}
	if err := r.each(ignore, `BEGIN`); err != nil {
		return rows{}, err
	}
	if err := errors.Join(r.all(&now), r.each(ignore, `COMMIT`)); err != nil {
		return rows{}, err
	}
	r.version, r.last = version, now
	return now, nil
}

func (r *reader) all(now *rows) error {
	var damaged error
	err := r.each(func(row *sqlite3.Stmt) {
		in := intentRow{
			id: row.ColumnText(0), backend: row.ColumnText(1), owner: row.ColumnText(2), state: row.ColumnText(3), wanted: row.ColumnBool(4),
			resource: row.ColumnText(5), price: row.ColumnFloat(6), billedFrom: row.ColumnInt64(7), billedTo: row.ColumnInt64(8),
			kind: row.ColumnText(9), region: row.ColumnText(10), group: row.ColumnText(11),
		}
		damaged = errors.Join(damaged, in.earlier.Scan(row.ColumnText(12)))
		now.intents = append(now.intents, in)
	}, `SELECT id, backend, owner_id, state, wanted, resource_id, price, billed_from, billed_to, kind, region, group_id, earlier FROM intent ORDER BY created_at, id`)
	if err = errors.Join(err, damaged); err != nil {
		return err
	}
	if err := r.allClusters(now); err != nil {
		return err
	}
	if err := r.allInstances(now); err != nil {
		return err
	}
	err = r.each(func(row *sqlite3.Stmt) {
		now.holds = append(now.holds, holdRow{job: row.ColumnText(0), instance: row.ColumnText(1), blocks: row.ColumnInt(2)})
	}, `SELECT job_id, instance_id, blocks FROM assignment`)
	if err != nil {
		return err
	}
	now.imports = map[importRow]bool{}
	err = r.each(func(row *sqlite3.Stmt) { now.imports[importRow{row.ColumnText(0), row.ColumnText(1)}] = true },
		`SELECT i.project_id, x.object_id FROM import i JOIN export_item x ON x.export_id = i.export_id`)
	if err != nil {
		return err
	}
	err = r.each(func(row *sqlite3.Stmt) { now.stale = append(now.stale, row.ColumnText(0)) },
		`SELECT name FROM setting WHERE name >= 'stale/' AND name < 'stale0'`)
	if err != nil {
		return err
	}
	return errors.Join(r.allJobs(now), r.allRuns(now))
}

func (r *reader) allClusters(now *rows) error {
	for i, in := range now.intents {
		if _, known := r.cluster[in.id]; !known {
			err := r.each(func(row *sqlite3.Stmt) { r.cluster[in.id] = row.ColumnText(0) }, `SELECT json_extract(doc, '$.cluster') FROM intent WHERE id = ?`, in.id)
			if err != nil {
				return err
			}
		}
		now.intents[i].cluster = r.cluster[in.id]
	}
	return nil
}

// instanceDoc is what the document of an instance says, in one version.
type instanceDoc struct {
	version int64
	job     string
	price   float64
}

func (r *reader) allInstances(now *rows) error {
	var stale []int
	err := r.each(func(row *sqlite3.Stmt) {
		v := instanceRow{
			id: row.ColumnText(0), name: row.ColumnText(1), status: row.ColumnText(2), intent: row.ColumnText(3), deleted: row.ColumnBool(4),
			blocks: row.ColumnInt(5), project: row.ColumnText(6), fleet: row.ColumnText(7), host: row.ColumnText(8),
		}
		if r.docs[v.id].version != row.ColumnInt64(9) {
			stale = append(stale, len(now.instances))
		}
		now.instances = append(now.instances, v)
	}, `SELECT id, name, status, intent_id, deleted, blocks, project_id, fleet_id, ssh_host, version FROM instance ORDER BY created_at, id`)
	if err != nil {
		return err
	}
	for _, i := range stale {
		id := now.instances[i].id
		err := r.each(func(row *sqlite3.Stmt) {
			r.docs[id] = instanceDoc{row.ColumnInt64(0), row.ColumnText(1), row.ColumnFloat(2)}
		}, `SELECT version, json_extract(doc, '$.for_job'), json_extract(doc, '$.offer.price') FROM (SELECT version, CASE WHEN json_valid(data) THEN data END AS doc FROM instance WHERE id = ?)`, id)
		if err != nil {
			return err
		}
	}
	now.clusters = r.fleets
	for i, v := range now.instances {
		if _, known := r.fleets[v.fleet]; !known {
			err := r.each(func(row *sqlite3.Stmt) { r.fleets[v.fleet] = row.ColumnText(0) == "cluster" }, `SELECT json_extract(data, '$.configuration.placement') FROM fleet WHERE id = ?`, v.fleet)
			if err != nil {
				return err
			}
		}
		now.instances[i].job, now.instances[i].price = r.docs[v.id].job, r.docs[v.id].price
	}
	return nil
}

// limits are what a fleet of a cloud says of its size and for how long its machines may be idle.
type limits struct {
	least int
	idle  time.Duration // negative: for ever
}

// limits returns those of the fleets that are not deleted, by id.
func (r *reader) limits() (map[string]limits, error) {
	all := map[string]limits{}
	err := r.each(func(row *sqlite3.Stmt) {
		all[row.ColumnText(0)] = limits{row.ColumnInt(1), time.Duration(row.ColumnInt64(2)) * time.Second}
	}, `SELECT id, json_extract(data, '$.configuration.nodes.min'), COALESCE(json_extract(data, '$.configuration.idle_duration'), -1) FROM fleet WHERE NOT deleted`)
	return all, err
}

func (r *reader) allJobs(now *rows) error {
	var order, stale []string
	err := r.each(func(row *sqlite3.Stmt) {
		id := row.ColumnText(0)
		order = append(order, id)
		if r.jobs[id].version != row.ColumnInt64(1) {
			stale = append(stale, id)
		}
	}, `SELECT id, version FROM job ORDER BY run_id, replica_num, job_num, submission_num`)
	if err != nil {
		return err
	}
	for _, id := range stale {
		err := r.each(func(row *sqlite3.Stmt) {
			r.jobs[id] = jobRow{
				id: id, run: row.ColumnText(0), status: row.ColumnText(1), instance: row.ColumnText(2), replica: row.ColumnInt(3), num: row.ColumnInt(4),
				attempt: row.ColumnInt(5), version: row.ColumnInt64(6), reason: row.ColumnText(7), name: row.ColumnText(8), deployment: row.ColumnInt(9),
				project: row.ColumnText(10), buyFrom: row.ColumnText(11), gpus: row.ColumnInt(12), spot: row.ColumnBool(13), exit: row.ColumnText(14), since: row.ColumnInt64(15), had: row.ColumnBool(16),
			}
		}, `SELECT run_id, status, instance_id, replica_num, job_num, submission_num, version, json_extract(data, '$.reason'), json_extract(data, '$.spec.job_name'), json_extract(data, '$.deployment'), project_id, json_extract(data, '$.buy_from'),
			json_array_length(data, '$.runtime.offer.instance.resources.gpus'), json_extract(data, '$.runtime.offer.instance.resources.spot'), json_extract(data, '$.exit'), submitted_at, json_extract(data, '$.provisioning') IS NOT NULL
			FROM job WHERE id = ?`, id)
		if err != nil {
			return err
		}
	}
	for _, id := range order {
		now.jobs = append(now.jobs, r.jobs[id])
	}
	return nil
}

func (r *reader) allRuns(now *rows) error {
	var fresh []string
	err := r.each(func(row *sqlite3.Stmt) {
		v := runRow{id: row.ColumnText(0), status: row.ColumnText(1), priority: row.ColumnInt(2), version: row.ColumnInt64(3)}
		known, ok := r.runs[v.id]
		v.name, v.submitted, v.class, v.deployment, v.reason = known.name, known.submitted, known.class, known.deployment, known.reason
		now.runs[v.id] = v
		if !ok || v.version != known.version {
			fresh = append(fresh, v.id)
		}
	}, `SELECT id, status, priority, version FROM run`)
	if err != nil {
		return err
	}
	for _, id := range fresh {
		v := now.runs[id]
		err := r.each(func(row *sqlite3.Stmt) {
			v.name, v.submitted, v.class, v.deployment, v.reason = row.ColumnText(0), row.ColumnInt64(1), row.ColumnText(2), row.ColumnInt(3), row.ColumnText(4)
		}, `SELECT name, submitted_at, json_extract(data, '$.spec.configuration.env.CLASS'), json_extract(data, '$.deployment'), json_extract(data, '$.reason') FROM run WHERE id = ?`, id)
		if err != nil {
			return err
		}
		r.runs[id], now.runs[id] = v, v
	}
	return nil
}
