package store_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

// TestOlder opens what servers of older schemas have left behind: every row is there as it was, and the
// schema is the one that a new database has.
func TestOlder(t *testing.T) {
	storetest.EachOlder(t, func(t *testing.T, o storetest.Older) {
		before, err := sql.Open("sqlite3", "file:"+o.SQLite(t))
		if err != nil {
			t.Fatal(err)
		}
		defer before.Close()
		tables := list(t, before, `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' AND name NOT LIKE 'goose%' ORDER BY name`)
		filled := 0
		for _, engine := range []struct {
			name string
			url  func(testing.TB) string
		}{{"sqlite", o.SQLite}, {"postgres", o.Postgres}} {
			t.Run(engine.name, func(t *testing.T) {
				db := storetest.Open(t, engine.url(t))
				for _, table := range tables {
					columns := list(t, before, `SELECT name FROM pragma_table_info('`+table+`') ORDER BY cid`)
					query := `SELECT "` + strings.Join(columns, `", "`) + `" FROM "` + table + `"`
					want, got := contents(t, before, query), contents(t, db.Read(), query)
					if len(want) > 0 {
						filled++
					}
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("rows of %s (-before +after):\n%s", table, diff)
					}
				}
				if n := contents(t, db.Read(), `SELECT job_id FROM assignment WHERE run_id = '' OR run_id <> (SELECT run_id FROM job WHERE job.id = assignment.job_id)`); len(n) > 0 {
					t.Errorf("what these jobs hold is of no run, or another: %v", n)
				}
				if db.Engine() == store.Postgres {
					return
				}
				want, err := os.ReadFile("schema.sql")
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(string(want), schema(t, db)); diff != "" {
					t.Errorf("the schema is not that of a new database (-want +got):\n%s", diff)
				}
			})
		}
		if filled < 20 {
			t.Errorf("%d tables have rows", filled)
		}
	})
}

func list(t *testing.T, db *sql.DB, query string) (names []string) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var name string
		err := rows.Scan(&name)
		names = append(names, name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// contents are the rows of a query as sorted texts, alike for both engines.
func contents(t *testing.T, db interface {
	QueryContext(context.Context, string, ...any) (*sql.Rows, error)
}, query string,
) (lines []string) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		columns, err := rows.Columns()
		if err != nil {
			return err
		}
		row := make([]any, len(columns))
		for i := range row {
			row[i] = new(any)
		}
		if err := rows.Scan(row...); err != nil {
			return err
		}
		var b strings.Builder
		for i, name := range columns {
			switch v := (*row[i].(*any)).(type) {
			case bool: // a number in SQLite
				fmt.Fprintf(&b, "%s=%d ", name, map[bool]int{true: 1}[v])
			case []byte:
				fmt.Fprintf(&b, "%s=%q ", name, v)
			default:
				fmt.Fprintf(&b, "%s=%v ", name, v)
			}
		}
		lines = append(lines, b.String())
		return nil
	})
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	slices.Sort(lines)
	return lines
}
