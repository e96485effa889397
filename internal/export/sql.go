package export

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"dstack/internal/api"
	"dstack/internal/store"
)

// Kind is a kind of object that can be shared.
type Kind string

// The kinds; they are the names of the objects' tables.
const (
	Fleets   Kind = "fleet"
	Gateways Kind = "gateway"
)

const selectExports = `SELECT id, project_id, name, is_global FROM export `

// selectItems lists what exports share, with a table's name for the kind.
const selectItems = `
SELECT i.export_id, o.id, o.name FROM export_item i JOIN %[1]s o ON o.id = i.object_id AND i.kind = '%[1]s'
WHERE  i.export_id IN (SELECT id FROM export WHERE %[2]s) ORDER BY o.name, o.id`

const selectImporters = `
SELECT i.export_id, p.name FROM import i JOIN project p ON p.id = i.project_id
WHERE  i.export_id IN (SELECT id FROM export WHERE %s) ORDER BY p.name`

const selectImports = `
SELECT i.id, e.id, e.name, p.name FROM import i JOIN export e ON e.id = i.export_id JOIN project p ON p.id = e.project_id
WHERE  i.project_id = $1 ORDER BY i.created_at DESC, i.id`

// selectImported lists what projects may use of others.
const selectImported = `
SELECT DISTINCT x.object_id FROM import i JOIN export_item x ON x.export_id = i.export_id
WHERE  x.kind = $1 AND i.project_id IN (%s) ORDER BY x.object_id`

const countUses = `
SELECT count(*) FROM import i JOIN export_item x ON x.export_id = i.export_id
WHERE  i.project_id = $1 AND x.object_id = $2`

// countReaders counts the projects of a user that use an object of others.
const countReaders = `
SELECT count(*) FROM import i JOIN export_item x ON x.export_id = i.export_id JOIN member m ON m.project_id = i.project_id
WHERE  m.user_id = $1 AND x.object_id = $2`

// countVisits counts the projects of a user that use anything of a project.
const countVisits = `
SELECT count(*) FROM export e JOIN import i ON i.export_id = e.id JOIN member m ON m.project_id = i.project_id
WHERE  m.user_id = $1 AND e.project_id = $2`

const anyExport = `SELECT count(*) FROM (SELECT 1 FROM export LIMIT 1) AS one`

const selectProjectsUsing = `
SELECT DISTINCT i.project_id FROM export e JOIN import i ON i.export_id = e.id WHERE e.project_id = $1`

// selectUses lists who uses which objects of a project.
const selectUses = `
SELECT DISTINCT i.project_id, x.object_id, x.kind FROM export e JOIN import i ON i.export_id = e.id JOIN export_item x ON x.export_id = e.id
WHERE  e.project_id = $1`

// row is one export.
type row struct {
	id, projectID, name string
	global              bool
}

func find(ctx context.Context, q store.Querier, projectID, name string) (row, error) {
	var e row
	err := store.DespiteDamage(store.Scan(q.QueryRowContext(ctx, selectExports+`WHERE project_id = $1 AND name = $2`, projectID, name), &e.id, &e.projectID, &e.name, &e.global))
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return row{}, fmt.Errorf("read export %s: %w", name, err)
	}
	return e, store.One(err)
}

// Imported lists the objects of others that projects may use.
func Imported(ctx context.Context, q store.Querier, kind Kind, projectIDs ...string) ([]string, error) {
	if len(projectIDs) == 0 {
		return nil, nil
	}
	return ids(ctx, q, fmt.Sprintf(selectImported, store.Marks(2, len(projectIDs))), append([]any{kind}, store.Args(projectIDs)...)...)
}

// Uses says whether a project may use an object of another.
func Uses(ctx context.Context, q store.Querier, projectID, objectID string) (bool, error) {
	return some(ctx, q, countUses, projectID, objectID)
}

// ReadableBy says whether a user is a member of a project that may use an object.
func ReadableBy(ctx context.Context, q store.Querier, userID, objectID string) (bool, error) {
	return some(ctx, q, countReaders, userID, objectID)
}

// Visits says whether a user is a member of a project that uses anything of another.
func Visits(ctx context.Context, q store.Querier, userID, projectID string) (bool, error) {
	return some(ctx, q, countVisits, userID, projectID)
}

// Forget takes an object that is deleted out of all exports.
func Forget(ctx context.Context, tx *store.Tx, objectID string) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM export_item WHERE object_id = $1`, objectID); err != nil {
		return fmt.Errorf("take %s out of exports: %w", objectID, err)
	}
	return nil
}

func some(ctx context.Context, q store.Querier, text string, args ...any) (bool, error) {
	var n int
	if err := q.QueryRowContext(ctx, text, args...).Scan(&n); err != nil {
		return false, fmt.Errorf("look for exports: %w", err)
	}
	return n > 0, nil
}

func ids(ctx context.Context, q store.Querier, text string, args ...any) ([]string, error) {
	var list []string
	rows, err := q.QueryContext(ctx, text, args...)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var id string
		err := rows.Scan(&id)
		list = append(list, id)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list imports: %w", err)
	}
	return list, nil
}

// use is a project's permission to use an object.
type use struct {
	project, object string
	kind            Kind
}

// uses lists who may use which objects of a project.
func uses(ctx context.Context, q store.Querier, projectID string) (map[use]bool, error) {
	set := map[use]bool{}
	rows, err := q.QueryContext(ctx, selectUses, projectID)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var u use
		err := rows.Scan(&u.project, &u.object, &u.kind)
		set[u] = true
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list who uses a project's exports: %w", err)
	}
	return set, nil
}

// views are the exports that a condition of the table export chooses, newest first.
func views(ctx context.Context, q store.Querier, cond string, args ...any) ([]api.Export, error) {
	list := []api.Export{}
	at := map[string]int{}
	rows, err := q.QueryContext(ctx, selectExports+"WHERE "+cond+" ORDER BY created_at DESC, id", args...)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var e row
		err := store.DespiteDamage(store.Scan(rows, &e.id, &e.projectID, &e.name, &e.global))
		at[e.id] = len(list)
		list = append(list, api.Export{ID: e.id, Name: e.name, IsGlobal: e.global, Imports: []api.ExportImport{}, ExportedFleets: []api.Named{}, ExportedGateways: []api.Named{}})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list exports: %w", err)
	}
	rows, err = q.QueryContext(ctx, fmt.Sprintf(selectImporters, cond), args...)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var id, name string
		if err := rows.Scan(&id, &name); err != nil {
			return err
		}
		if i, ok := at[id]; ok {
			list[i].Imports = append(list[i].Imports, api.ExportImport{ProjectName: name})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list importers: %w", err)
	}
	for _, kind := range []Kind{Fleets, Gateways} {
		rows, err := q.QueryContext(ctx, fmt.Sprintf(selectItems, kind, cond), args...)
		err = store.EachRow(rows, err, func(rows *sql.Rows) error {
			var id string
			var o api.Named
			if err := rows.Scan(&id, &o.ID, &o.Name); err != nil {
				return err
			}
			i, ok := at[id]
			switch {
			case !ok: // made since
			case kind == Fleets:
				list[i].ExportedFleets = append(list[i].ExportedFleets, o)
			default:
				list[i].ExportedGateways = append(list[i].ExportedGateways, o)
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list what is exported: %w", err)
		}
	}
	return list, nil
}

// imports lists what a project uses of others, newest first.
func imports(ctx context.Context, q store.Querier, projectID string) ([]api.Import, error) {
	list := []api.Import{}
	rows, err := q.QueryContext(ctx, selectImports, projectID)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var i api.Import
		err := rows.Scan(&i.ID, &i.Export.ID, &i.Export.Name, &i.Export.ProjectName)
		list = append(list, i)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list imports: %w", err)
	}
	exports, err := views(ctx, q, "id IN (SELECT export_id FROM import WHERE project_id = $1)", projectID)
	if err != nil {
		return nil, err
	}
	for n := range list {
		list[n].Export.ExportedFleets, list[n].Export.ExportedGateways = []api.Named{}, []api.Named{}
		for _, e := range exports {
			if e.ID == list[n].Export.ID {
				list[n].Export.ExportedFleets, list[n].Export.ExportedGateways = e.ExportedFleets, e.ExportedGateways
			}
		}
	}
	return list, nil
}
