package storetest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	_ "github.com/ncruces/go-sqlite3/driver" // reads what is left behind, which store.Open would migrate
)

//go:embed testdata/*.tar.gz
var older embed.FS

// Older is the folder of a server with an older schema that was killed in the middle of its work, among the
// clouds and hosts of package sim. It was filled by that server's own API.
type Older struct {
	Name  string // the schema's last migration
	files map[string][]byte
}

// EachOlder runs fn as a subtest for each older schema.
func EachOlder(t *testing.T, fn func(t *testing.T, o Older)) {
	t.Helper()
	list, err := older.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range list {
		data, err := older.ReadFile("testdata/" + entry.Name())
		if err != nil {
			t.Fatal(err)
		}
		o := Older{strings.TrimSuffix(entry.Name(), ".tar.gz"), map[string][]byte{}}
		if err := o.read(data); err != nil {
			t.Fatalf("%s: %v", entry.Name(), err)
		}
		t.Run(o.Name, func(t *testing.T) { fn(t, o) })
	}
}

func (o Older) read(data []byte) error {
	unzipped, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return err
	}
	for tr := tar.NewReader(unzipped); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if o.files[h.Name], err = io.ReadAll(tr); err != nil {
			return err
		}
	}
}

// File is a file of the folder: config.yml, and below logs what jobs have printed. Beside them are server.sql, which
// makes server.db, world.json, what there was of clouds and hosts, shown.json, answers of the API, and postgres.sql,
// the same schema of PostgreSQL.
func (o Older) File(tb testing.TB, name string) []byte {
	tb.Helper()
	data, ok := o.files[name]
	if !ok {
		tb.Fatalf("%s has no %s", o.Name, name)
	}
	return data
}

// Decode reads a file of JSON.
func (o Older) Decode(tb testing.TB, name string, v any) {
	tb.Helper()
	if err := json.Unmarshal(o.File(tb, name), v); err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
}

// Unpack writes the server's folder to dir, with its database.
func (o Older) Unpack(tb testing.TB, dir string) {
	tb.Helper()
	for name, data := range o.files {
		to := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(to, data, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	o.restore(tb, filepath.Join(dir, "server.db"))
}

// SQLite makes the database of the older server and returns its path.
func (o Older) SQLite(tb testing.TB) string {
	tb.Helper()
	to := Path(tb)
	o.restore(tb, to)
	return to
}

func (o Older) restore(tb testing.TB, to string) {
	tb.Helper()
	db, err := sql.Open("sqlite3", "file:"+to)
	if err != nil {
		tb.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(string(o.File(tb, "server.sql"))); err != nil {
		tb.Fatal(err)
	}
}

// Postgres makes a Postgres schema as the older server made it, with the rows that it had in SQLite, as
// [PostgresURL] does.
func (o Older) Postgres(tb testing.TB) string {
	tb.Helper()
	to := PostgresURL(tb)
	run(tb, to, string(o.File(tb, "postgres.sql")))
	from, err := sql.Open("sqlite3", "file:"+o.SQLite(tb))
	if err != nil {
		tb.Fatal(err)
	}
	defer from.Close()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, to)
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }() // all has been answered
	for _, table := range texts(tb, from, `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' ORDER BY name`) {
		if err := copyRows(ctx, from, conn, table); err != nil {
			tb.Fatalf("copy %s: %v", table, err)
		}
	}
	return to
}

func texts(tb testing.TB, db *sql.DB, query string) (list []string) {
	tb.Helper()
	rows, err := db.Query(query)
	if err != nil {
		tb.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			tb.Fatal(err)
		}
		list = append(list, text)
	}
	if err := rows.Err(); err != nil {
		tb.Fatal(err)
	}
	return list
}

// copyRows copies a table. SQLite has no type of its own for truth.
func copyRows(ctx context.Context, from *sql.DB, to *pgx.Conn, table string) error {
	rows, err := from.QueryContext(ctx, `SELECT * FROM "`+table+`"`)
	if err != nil {
		return err
	}
	defer rows.Close()
	types, err := rows.ColumnTypes()
	if err != nil {
		return err
	}
	for rows.Next() {
		row := make([]any, len(types))
		for i := range row {
			row[i] = new(any)
		}
		if err := rows.Scan(row...); err != nil {
			return err
		}
		var names, places []string
		var values []any
		for i, c := range types {
			if table == "goose_db_version" && c.Name() == "id" {
				continue // Postgres counts them
			}
			v := *row[i].(*any)
			if n, ok := v.(int64); ok && (c.DatabaseTypeName() == "BOOLEAN" || c.Name() == "is_applied") {
				v = n != 0
			}
			values = append(values, v)
			names, places = append(names, `"`+c.Name()+`"`), append(places, fmt.Sprint("$", len(values)))
		}
		insert := fmt.Sprintf(`INSERT INTO "%s" (%s) VALUES (%s)`, table, strings.Join(names, ", "), strings.Join(places, ", "))
		if _, err := to.Exec(ctx, insert, values...); err != nil {
			return fmt.Errorf("%s: %w", insert, err)
		}
	}
	return rows.Err()
}
