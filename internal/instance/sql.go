package instance

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"dstack/internal/engine"
	"dstack/internal/store"
)

const columns = `id, project_id, fleet_id, num, name, status, backend, ssh_host, intent_id, unreachable,
deleted, created_at, finished_at, last_job_at, blocks, ` + store.Version + ` AS version, data`

const insertInstance = `
INSERT INTO instance (id, project_id, fleet_id, num, name, status, backend, ssh_host, intent_id, created_at, blocks, shard, data)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`

const updateInstance = `
UPDATE instance
SET    status = $1, backend = $2, ssh_host = $3, intent_id = $4, unreachable = $5, deleted = $6,
       finished_at = $7, last_job_at = $8, blocks = coalesce($9, blocks), data = coalesce($10, data), agent_key = coalesce($11, agent_key), version = ` + store.NextVersion + `
WHERE  id = $12 AND ` + store.Version + ` = $13`

// selectTwins finds other instances with the key of an agent.
const selectTwins = `WHERE agent_key <> '' AND agent_key = $1 AND NOT deleted AND status <> 'terminated' AND id <> $2 ORDER BY id`

const insertAssignment = `
INSERT INTO assignment (job_id, instance_id, blocks, created_at, run_id) VALUES ($1, $2, $3, $4, $5)`

const setAssignment = `UPDATE assignment SET blocks = $1, created_at = $2 WHERE job_id = $3 AND instance_id = $4`

// endAssignment keeps what a job held until a time, for its cost.
const endAssignment = `
INSERT INTO assignment_ended (job_id, instance_id, project_id, run_id, blocks, of_blocks, created_at, ended_at)
SELECT job_id, instance_id, CAST($3 AS TEXT), run_id, blocks, CAST($4 AS INTEGER), created_at, CAST($5 AS BIGINT)
FROM   assignment WHERE job_id = $1 AND instance_id = $2
ON CONFLICT (job_id, instance_id, created_at) DO NOTHING`

const deleteAssignment = `
DELETE FROM assignment WHERE job_id = $1 AND instance_id = $2`

const usedNumbers = `
SELECT num FROM instance WHERE fleet_id = $1 AND NOT deleted ORDER BY num`

// Get returns one instance, also a deleted one; store.ErrNotFound when there is none.
func Get(ctx context.Context, q store.Querier, id string) (Instance, error) {
	list, err := query(ctx, q, "WHERE id = $1", id)
	if err != nil {
		return Instance{}, err
	}
	if len(list) == 0 {
		return Instance{}, fmt.Errorf("instance %s: %w", id, store.ErrNotFound)
	}
	return list[0], nil
}

// OfFleets returns the instances of the fleets that are not deleted, by number.
func OfFleets(ctx context.Context, q store.Querier, fleetIDs ...string) ([]Instance, error) {
	if len(fleetIDs) == 0 {
		return nil, nil
	}
	args := store.Args(fleetIDs)
	return query(ctx, q, "WHERE NOT deleted AND fleet_id IN ("+store.Marks(1, len(args))+") ORDER BY fleet_id, num", args...)
}

// OnHosts returns a fleet's instances that are not deleted for some hosts of the user: at most one for each address.
func OnHosts(ctx context.Context, q store.Querier, fleetID string, addresses []string) ([]Instance, error) {
	var all []Instance
	for batch := range slices.Chunk(addresses, 500) {
		args := append([]any{fleetID}, store.Args(batch)...)
		list, err := query(ctx, q, "WHERE ssh_host <> '' AND NOT deleted AND fleet_id = $1 AND ssh_host IN ("+store.Marks(2, len(batch))+") ORDER BY num", args...)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	return all, nil
}

// ByID returns instances, also deleted ones, in no order.
func ByID(ctx context.Context, q store.Querier, ids []string) ([]*Instance, error) {
	var out []*Instance
	for batch := range slices.Chunk(ids, 500) {
		args := store.Args(batch)
		list, err := query(ctx, q, "WHERE id IN ("+store.Marks(1, len(args))+")", args...)
		if err != nil {
			return nil, err
		}
		for i := range list {
			out = append(out, &list[i])
		}
	}
	return out, nil
}

// JobsOn returns the jobs that hold blocks of an instance.
func JobsOn(ctx context.Context, q store.Querier, id string) ([]string, error) {
	rows, err := q.QueryContext(ctx, `SELECT job_id FROM assignment WHERE instance_id = $1 AND job_id IS NOT NULL ORDER BY created_at, job_id`, id)
	var jobs []string
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var job string
		err := rows.Scan(&job)
		jobs = append(jobs, job)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the jobs of instance %s: %w", id, err)
	}
	return jobs, nil
}

// Count is how many instances of a fleet exist or are wanted.
func Count(ctx context.Context, q store.Querier, fleetID string) (int, error) {
	var n int
	err := q.QueryRowContext(ctx, `SELECT count(*) FROM instance WHERE fleet_id = $1 AND NOT deleted AND status NOT IN ('terminating', 'terminated')`, fleetID).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("count the fleet's instances: %w", err)
	}
	return n, nil
}

func query(ctx context.Context, q store.Querier, where string, args ...any) ([]Instance, error) {
	rows, err := q.QueryContext(ctx, "SELECT "+columns+" FROM instance "+where, args...)
	if err != nil {
		return nil, fmt.Errorf("list instances: %w", err)
	}
	defer rows.Close()
	var list []Instance
	for rows.Next() {
		inst, err := scan(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, inst)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list instances: %w", err)
	}
	return list, loadAssignments(ctx, q, list)
}

func scan(rows *sql.Rows) (Instance, error) {
	var i Instance
	var created, finished, lastJob int64
	err := i.whole(store.Scan(rows, &i.ID, &i.ProjectID, &i.FleetID, &i.Num, &i.Name, &i.Status, &i.Backend, &i.SSHHost, &i.IntentID,
		&i.Unreachable, &i.Deleted, &created, &finished, &lastJob, &i.Blocks, &i.Version, store.JSON(&i.Data)))
	if err != nil {
		return Instance{}, fmt.Errorf("read an instance: %w", err)
	}
	if i.Blocks < 0 && i.Data.Damage == "" {
		i.odd(fmt.Errorf("it is divided into %d blocks", i.Blocks))
	}
	i.CreatedAt, i.FinishedAt, i.LastJobAt = store.Time(created), store.Time(finished), store.Time(lastJob)
	return i, nil
}

// loadAssignments fills the list in one query per 500 instances.
func loadAssignments(ctx context.Context, q store.Querier, list []Instance) error {
	const batch = 500
	for start := 0; start < len(list); start += batch {
		part := list[start:min(start+batch, len(list))]
		byID := make(map[string]*Instance, len(part))
		args := make([]any, len(part))
		for n := range part {
			byID[part[n].ID] = &part[n]
			args[n] = part[n].ID
		}
		if err := scanAssignments(ctx, q, byID, args); err != nil {
			return err
		}
	}
	return nil
}

func scanAssignments(ctx context.Context, q store.Querier, byID map[string]*Instance, args []any) error {
	rows, err := q.QueryContext(ctx,
		"SELECT instance_id, job_id, blocks FROM assignment WHERE instance_id IN ("+store.Marks(1, len(args))+") AND job_id IS NOT NULL ORDER BY created_at, job_id", args...)
	if err != nil {
		return fmt.Errorf("list assignments: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var id string
		var a Assignment
		if err := store.DespiteDamage(store.Scan(rows, &id, &a.JobID, &a.Blocks)); err != nil {
			return fmt.Errorf("read an assignment: %w", err)
		}
		if inst := byID[id]; inst != nil {
			inst.Assignments = append(inst.Assignments, a)
		}
	}
	return rows.Err()
}

func insert(ctx context.Context, tx *store.Tx, i *Instance) error {
	_, err := tx.ExecContext(ctx, insertInstance, i.ID, i.ProjectID, i.FleetID, i.Num, i.Name, i.Status, i.Backend, i.SSHHost,
		i.IntentID, store.Micros(i.CreatedAt), i.Blocks, engine.Shard(i.ID), store.JSON(&i.Data))
	if err != nil {
		return fmt.Errorf("store instance %s: %w", i.Name, err)
	}
	i.Version = 1
	return nil
}

func update(ctx context.Context, tx *store.Tx, i *Instance) error {
	var data, blocks, key any = store.JSON(&i.Data), i.Blocks, ""
	switch {
	case i.Data.Damage != "":
		data, blocks, key = nil, nil, nil // somebody may mend what is there
	case i.Data.Host != nil:
		key = i.Data.Host.InstanceKey
	}
	err := store.Guarded(tx.ExecContext(ctx, updateInstance, i.Status, i.Backend, i.SSHHost, i.IntentID, i.Unreachable, i.Deleted,
		store.Micros(i.FinishedAt), store.Micros(i.LastJobAt), blocks, data, key, i.ID, i.Version))
	if err != nil {
		return fmt.Errorf("store instance %s: %w", i.Name, err)
	}
	i.Version++
	return nil
}

// nextNumbers returns the n lowest numbers that no instance of the fleet uses.
func nextNumbers(ctx context.Context, tx *store.Tx, fleetID string, n int) ([]int, error) {
	rows, err := tx.QueryContext(ctx, usedNumbers, fleetID)
	if err != nil {
		return nil, fmt.Errorf("list instance numbers: %w", err)
	}
	defer rows.Close()
	used := map[int]bool{}
	for rows.Next() {
		var num int
		if err := store.DespiteDamage(store.Scan(rows, &num)); err != nil {
			return nil, fmt.Errorf("read an instance number: %w", err)
		}
		used[num] = true
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list instance numbers: %w", err)
	}
	free := make([]int, 0, n)
	for num := 0; len(free) < n; num++ {
		if !used[num] {
			free = append(free, num)
		}
	}
	return free, nil
}

// Filter chooses instances of a list.
type Filter struct {
	Projects []string
	Shared   []string // fleets of other projects that are seen too
	Fleets   []string // nil for all
	Active   bool     // only those that work
	After    *Cursor  // where the page before ended, nil for the first
	// Ascending lists the oldest first.
	Ascending bool
	Limit     int // of the page, 0 for all
}

// Cursor is a place in a list: after the instance, or without an ID after all of that moment.
type Cursor struct {
	At time.Time
	ID string
}

// where is what follows WHERE, with its arguments.
func (f Filter) where() (tail string, args []any) {
	add := func(values ...any) string {
		args = append(args, values...)
		return store.Marks(len(args)-len(values)+1, len(values))
	}
	in := func(ids []string) string {
		values := store.Args(ids)
		return " IN (" + add(values...) + ")"
	}
	cond := "project_id" + in(f.Projects)
	if len(f.Shared) > 0 {
		cond = "(" + cond + " OR fleet_id" + in(f.Shared) + ")"
	}
	if f.Fleets != nil {
		cond += " AND fleet_id" + in(f.Fleets)
	}
	if f.Active {
		cond += " AND NOT deleted AND status IN ('idle', 'busy')"
	}
	order, cmp, tie := "created_at DESC, id", "<", ">" // ids run the other way
	if f.Ascending {
		order, cmp, tie = "created_at, id DESC", ">", "<"
	}
	if c := f.After; c != nil {
		at := add(store.Micros(c.At))
		after := "created_at " + cmp + " " + at
		if c.ID != "" {
			after += " OR created_at = " + at + " AND id " + tie + " " + add(c.ID)
		}
		cond += " AND (" + after + ")"
	}
	tail = cond + " ORDER BY " + order
	if f.Limit > 0 {
		tail += fmt.Sprintf(" LIMIT %d", f.Limit)
	}
	return tail, args
}
