package store_test

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

var update = flag.Bool("update", false, "write schema.sql")

// TestSchema compares what the migrations make with schema.sql, which is there to be read:
// go test ./internal/store -run TestSchema -update.
func TestSchema(t *testing.T) {
	got := schema(t, storetest.SQLite(t))
	if *update {
		if err := os.WriteFile("schema.sql", []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("schema.sql is not what the migrations make; run this test with -update (-want +got):\n%s", diff)
	}
}

func schema(t *testing.T, db *store.DB) string {
	t.Helper()
	rows, err := db.Read().QueryContext(t.Context(), `
		SELECT sql FROM sqlite_master
		WHERE  sql IS NOT NULL AND name NOT LIKE 'goose%' AND name NOT LIKE 'sqlite%'
		ORDER BY tbl_name, type DESC, name`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var b strings.Builder
	b.WriteString("-- Made by TestSchema from the migrations. Read it, do not edit it.\n")
	for rows.Next() {
		var sql string
		if err := rows.Scan(&sql); err != nil {
			t.Fatal(err)
		}
		b.WriteString("\n" + sql + ";\n")
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestConstraint violates one of each and expects the same name from both engines.
func TestConstraint(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		for _, ddl := range []string{
			`CREATE TABLE parent (id TEXT PRIMARY KEY, kind TEXT NOT NULL, CONSTRAINT parent_kind CHECK (kind IN ('a', 'b')))`,
			`CREATE TABLE child (id TEXT PRIMARY KEY, parent_id TEXT REFERENCES parent (id), name TEXT, gone BOOLEAN, UNIQUE (parent_id, id))`,
			`CREATE UNIQUE INDEX a_name_of_its_own ON child (parent_id, name) WHERE NOT gone`,
			`INSERT INTO parent (id, kind) VALUES ('p', 'a')`,
			`INSERT INTO child (id, parent_id, name, gone) VALUES ('c', 'p', 'n', FALSE)`,
		} {
			if err := write(t, db, ddl); err != nil {
				t.Fatal(err)
			}
		}
		for statement, want := range map[string]string{
			`INSERT INTO parent (id, kind) VALUES ('p', 'a')`:                                  "parent_pkey",
			`INSERT INTO parent (id, kind) VALUES ('q', 'c')`:                                  "parent_kind",
			`INSERT INTO parent (id, kind) VALUES ('q', NULL)`:                                 "parent_kind_not_null",
			`INSERT INTO child (id, parent_id, name, gone) VALUES ('d', 'p', 'n', FALSE)`:      "child_parent_id_name_key",
			`INSERT INTO child (id, parent_id, name, gone) VALUES ('d', 'nobody', 'n', FALSE)`: store.ForeignKey,
			`INSERT INTO child (id, parent_id, name, gone) VALUES ('e', 'p', 'n', TRUE)`:       "",
			`INSERT INTO nothing (id) VALUES (1)`:                                              "",
		} {
			if got := store.Constraint(write(t, db, statement)); got != want {
				t.Errorf("%s: constraint %q, want %q", statement, got, want)
			}
		}
	})
}
