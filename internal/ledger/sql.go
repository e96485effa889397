package ledger

import (
	"context"
	"database/sql"

	"dstack/internal/backend"
	"dstack/internal/engine"
	"dstack/internal/store"
)

const columns = `id, ` + store.Version + ` AS version, ` + rest

const rest = `kind, backend, region, project_id, owner_kind, owner_id, state, wanted, idle,
       resource_id, group_id, member_at, price, created_at, check_at, billed_from, billed_to, earlier, doc`

const insertIntent = `
INSERT INTO intent (id, version, ` + rest + `, astray, shard)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23)`

const updateIntent = `
UPDATE intent
SET    version = ` + store.NextVersion + `, state = $2, wanted = $3, idle = $4, resource_id = $5, price = $6,
       billed_from = $7, billed_to = $8, doc = $9, group_id = $11, earlier = $12, astray = $13, kind = $14, check_at = $15
WHERE  id = $1 AND ` + store.Version + ` = $10`

// releaseIntent finds one that is not wanted any more, and waits for nothing, as edited by somebody.
const releaseIntent = `
UPDATE intent SET wanted = FALSE, idle = FALSE, version = ` + store.NextVersion + `
WHERE  id = $1 AND (wanted OR idle) AND state <> 'gone'`

const checkIntent = `
UPDATE intent SET check_at = $2, idle = FALSE, version = ` + store.NextVersion + `
WHERE  id = $1 AND state = 'created'`

const selectIntent = `SELECT ` + columns + ` FROM intent WHERE id = $1`

// selectByResource finds who has a resource, else who had it last.
const selectByResource = `
SELECT ` + columns + ` FROM intent
WHERE  backend = $1 AND resource_id = $2 AND kind = $3
ORDER BY CASE state WHEN 'gone' THEN 1 ELSE 0 END, created_at DESC LIMIT 1`

// selectBusy is for [engine.LiveQuery].
const selectBusy = `SELECT id FROM intent WHERE NOT idle AND shard IN`

const selectDebts = `
SELECT ` + columns + ` FROM intent
WHERE  (state = 'unknown' OR state = 'deleting') AND created_at < $1
ORDER BY created_at, id LIMIT $2`

// selectBilled reads nothing but the index intent_paid; a condition may follow. An end that is no
// number is none that costs: SQLite sorts it behind all numbers.
const selectBilled = `
SELECT id, project_id, owner_kind, owner_id, kind, backend, price, billed_from, billed_to, earlier FROM intent
WHERE  billed_from > 0 AND billed_from < $2 AND (billed_to = 0 OR billed_to > $1 AND billed_to <= 9223372036854775807)`

// selectOpen finds what may be in doubt: of the others nothing is to be found out. A condition may
// follow.
const selectOpen = `
SELECT ` + columns + ` FROM intent
WHERE  (NOT idle OR astray) AND state <> 'gone' AND billed_from > 0`

func insert(ctx context.Context, tx *store.Tx, r Record) error {
	return insertBy(ctx, tx, insertIntent, r)
}

// insertBy is insert with a statement that begins like insertIntent.
func insertBy(ctx context.Context, tx *store.Tx, statement string, r Record) error {
	_, err := tx.ExecContext(ctx, statement,
		r.ID, r.Version, string(r.Kind), r.Backend, r.Region, r.ProjectID, r.OwnerKind, r.OwnerID, string(r.State), r.Wanted, r.idle,
		r.Doc.Instance.Ref.ID, r.GroupID, store.Micros(r.memberAt), r.Price, store.Micros(r.CreatedAt), store.Micros(r.checkAt),
		store.Micros(r.BilledFrom), store.Micros(r.BilledTo), &r.Earlier, store.JSON(&r.Doc), r.Astray(), engine.Shard(r.ID))
	return err
}

func update(ctx context.Context, tx *store.Tx, r Record) error {
	return store.Guarded(tx.ExecContext(ctx, updateIntent,
		r.ID, string(r.State), r.Wanted, r.idle, r.Doc.Instance.Ref.ID, r.Price,
		store.Micros(r.BilledFrom), store.Micros(r.BilledTo), store.JSON(&r.Doc), r.Version, r.GroupID, &r.Earlier, r.Astray(), string(r.Kind), store.Micros(r.checkAt)))
}

func scan(row interface{ Scan(...any) error }) (Record, error) {
	var r Record
	var kind, state, resource string
	var member, created, check, from, to int64
	err := store.Scan(row, &r.ID, &r.Version, &kind, &r.Backend, &r.Region, &r.ProjectID, &r.OwnerKind, &r.OwnerID, &state, &r.Wanted, &r.idle,
		&resource, &r.GroupID, &member, &r.Price, &created, &check, &from, &to, &r.Earlier, store.JSON(&r.Doc))
	err = r.whole(credible(&r.Price, err), &resource)
	r.Kind, r.State = backend.ResourceKind(kind), State(state)
	r.memberAt = store.Time(member)
	r.CreatedAt, r.checkAt = store.Time(created), store.Time(check)
	r.BilledFrom, r.BilledTo = store.Time(from), store.Time(to)
	r.heal(resource)
	return r, err
}

func scanAll(rows *sql.Rows, err error) ([]Record, error) {
	var all []Record
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		r, err := scan(rows)
		all = append(all, r)
		return err
	})
	return all, err
}
