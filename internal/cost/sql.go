package cost

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"dstack/internal/store"
)

// machine is what is needed of an instance, which may have ended long ago.
type machine struct {
	id, fleetID string
	num, blocks int
}

// selectMachines reads nothing but the index instance_of_fleet; a condition follows.
const selectMachines = `SELECT id, fleet_id, num, blocks FROM instance WHERE `

// selectFleets reads nothing but the index fleet_names.
const selectFleets = `SELECT id, name, deleted FROM fleet WHERE project_id IN `

// selectHeld finds holds of now; a condition may follow.
const selectHeld = `
SELECT run_id, instance_id, blocks, 0, created_at, 0 FROM assignment WHERE created_at < $1 AND job_id IS NOT NULL`

// selectEnded finds holds that ended after a time; a condition follows.
const selectEnded = `
SELECT run_id, instance_id, blocks, of_blocks, created_at, ended_at FROM assignment_ended
WHERE  created_at < $1 AND ended_at > $2`

// selectHosts finds the machines that a run's jobs hold or held.
const selectHosts = `
SELECT instance_id FROM assignment WHERE run_id = $1 AND job_id IS NOT NULL
UNION
SELECT instance_id FROM assignment_ended WHERE run_id = $1`

const selectRuns = `
SELECT r.id, r.name, coalesce(a.name, '') FROM run r LEFT JOIN account a ON a.id = r.user_id WHERE r.id IN `

// batch is how many ids one query takes.
const batch = 500

// listed calls ask with every 500 of the ids as arguments behind args, and the list that goes behind
// IN.
func listed(args []any, ids []string, ask func(list string, args []any) error) error {
	for part := range slices.Chunk(ids, batch) {
		all := slices.Clone(args)
		for _, id := range part {
			all = append(all, id)
		}
		if err := ask("("+store.Marks(len(args)+1, len(part))+")", all); err != nil {
			return err
		}
	}
	return nil
}

// machines finds the instances whose column has one of some values, and to which a condition of the
// columns behind it in the index applies.
func machines(ctx context.Context, q store.Querier, column string, ids []string, cond string, condArgs ...any) (map[string]machine, error) {
	all := map[string]machine{}
	err := listed(condArgs, ids, func(list string, args []any) error {
		rows, err := q.QueryContext(ctx, selectMachines+column+" IN "+list+cond, args...)
		return store.EachRow(rows, err, func(rows *sql.Rows) error {
			var m machine
			err := store.DespiteDamage(store.Scan(rows, &m.id, &m.fleetID, &m.num, &m.blocks))
			all[m.id] = m
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list instances that cost money: %w", err)
	}
	return all, nil
}

// named is what has a name that others may have had.
type named struct {
	name    string
	deleted bool
}

// fleetNames names the fleets of projects, also those that were deleted, by id.
func fleetNames(ctx context.Context, q store.Querier, projects []string) (map[string]named, error) {
	names := map[string]named{}
	err := listed(nil, projects, func(list string, args []any) error {
		rows, err := q.QueryContext(ctx, selectFleets+list, args...)
		return store.EachRow(rows, err, func(rows *sql.Rows) error {
			var id string
			var f named
			err := store.DespiteDamage(store.Scan(rows, &id, &f.name, &f.deleted))
			names[id] = f
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("name fleets: %w", err)
	}
	return names, nil
}

// owned is a run's name and its user's.
type owned struct{ name, user string }

func runNames(ctx context.Context, q store.Querier, ids []string) (map[string]owned, error) {
	names := map[string]owned{}
	err := listed(nil, ids, func(list string, args []any) error {
		rows, err := q.QueryContext(ctx, selectRuns+list, args...)
		return store.EachRow(rows, err, func(rows *sql.Rows) error {
			var id string
			var r owned
			err := rows.Scan(&id, &r.name, &r.user)
			names[id] = r
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("name runs: %w", err)
	}
	return names, nil
}

// scanHolds reads the holds of machines that are known. Their shares are of the blocks that a machine
// has, where those that it had are not stored.
func scanHolds(rows *sql.Rows, err error, of map[string]machine) ([]Hold, error) {
	var all []Hold
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var h Hold
		var blocks, total int
		var from, to int64
		err := store.Scan(rows, &h.RunID, &h.InstanceID, &blocks, &total, &from, &to)
		if _, damaged := errors.AsType[*store.Damage](err); damaged {
			return nil // what it held, or when, is not known
		}
		if err != nil {
			return err
		}
		m, known := of[h.InstanceID]
		if total == 0 {
			total = m.blocks
		}
		h.Share = share(blocks, total)
		h.From, h.To = store.Time(from), store.Time(to)
		if known {
			all = append(all, h)
		}
		return nil
	})
	return all, err
}

// share is how much of a machine blocks are: all of it while nobody knows how many there are.
func share(blocks, total int) float64 {
	if blocks <= 0 || total <= 0 {
		return 1
	}
	return min(1, float64(blocks)/float64(total))
}

// holdsOn lists what jobs held of the machines of projects in a period.
func holdsOn(ctx context.Context, q store.Querier, projects []string, of map[string]machine, from, to time.Time) ([]Hold, error) {
	rows, err := q.QueryContext(ctx, selectHeld, store.Micros(to))
	all, err := scanHolds(rows, err, of)
	if err != nil {
		return nil, fmt.Errorf("list what jobs hold: %w", err)
	}
	err = listed([]any{store.Micros(to), store.Micros(from)}, projects, func(list string, args []any) error {
		rows, err := q.QueryContext(ctx, selectEnded+" AND project_id IN "+list, args...)
		more, err := scanHolds(rows, err, of)
		all = append(all, more...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list what jobs held: %w", err)
	}
	return all, nil
}

// holdsOf lists what the jobs of a run held until now, and the machines.
func holdsOf(ctx context.Context, q store.Querier, runID string, now time.Time) ([]Hold, []string, error) {
	var ids []string
	rows, err := q.QueryContext(ctx, selectHosts, runID)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var id string
		err := rows.Scan(&id)
		ids = append(ids, id)
		return err
	})
	if err != nil || len(ids) == 0 {
		return nil, nil, err
	}
	of, err := machines(ctx, q, "id", ids, "")
	if err != nil {
		return nil, nil, err
	}
	rows, err = q.QueryContext(ctx, selectHeld+" AND run_id = $2", store.Micros(now), runID)
	held, err := scanHolds(rows, err, of)
	if err != nil {
		return nil, nil, err
	}
	rows, err = q.QueryContext(ctx, selectEnded+" AND run_id = $3", store.Micros(now), 0, runID)
	ended, err := scanHolds(rows, err, of)
	return append(held, ended...), ids, err
}
