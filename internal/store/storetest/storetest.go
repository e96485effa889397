// Package storetest opens databases for tests: SQLite always, Postgres when the environment
// variable TEST_POSTGRES holds a URL such as postgres://user@localhost:5432/postgres?sslmode=disable
// (a Unix socket: postgres:///postgres?host=/dir&user=name). The Postgres user needs to
// create schemas; each test has its own and drops it.
package storetest

import (
	"context"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"dstack/internal/store"
)

// Each runs fn as a subtest on each engine, with an empty database.
func Each(t *testing.T, fn func(t *testing.T, db *store.DB)) {
	t.Helper()
	EachURL(t, func(t *testing.T, url string) { fn(t, Open(t, url)) })
}

// Bubble is [Each] in a synctest bubble: time is virtual and passes at once when all wait.
func Bubble(t *testing.T, fn func(t *testing.T, db *store.DB)) {
	t.Helper()
	EachURL(t, func(t *testing.T, url string) {
		synctest.Test(t, func(t *testing.T) { fn(t, Open(t, url)) })
	})
}

// EachURL runs fn as a subtest on each engine with the URL of a database that does not
// exist yet, for tests that open it themselves, or twice.
func EachURL(t *testing.T, fn func(t *testing.T, url string)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { fn(t, Path(t)) })
	t.Run("postgres", func(t *testing.T) { fn(t, PostgresURL(t)) })
}

// Open opens the database at url until the test ends.
func Open(tb testing.TB, url string) *store.DB {
	tb.Helper()
	db, err := store.Open(context.Background(), store.Config{URL: url, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Errorf("close database: %v", err)
		}
	})
	return db
}

// SQLite opens an empty SQLite database until the test ends.
func SQLite(tb testing.TB) *store.DB {
	tb.Helper()
	return Open(tb, Path(tb))
}

// Path is where a SQLite database of the test can be made.
func Path(tb testing.TB) string {
	tb.Helper()
	return filepath.Join(tb.TempDir(), "server.db")
}

// PostgresURL makes an empty Postgres schema that is dropped when the test ends, and
// returns a URL that leads there. It skips the test when TEST_POSTGRES is not set.
func PostgresURL(tb testing.TB) string {
	tb.Helper()
	base := os.Getenv("TEST_POSTGRES")
	if base == "" {
		tb.Skip("TEST_POSTGRES is not set")
	}
	schema := "test_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	run(tb, base, `CREATE SCHEMA `+schema)
	tb.Cleanup(func() { run(tb, base, `DROP SCHEMA `+schema+` CASCADE`) })
	u, err := url.Parse(base)
	if err != nil {
		tb.Fatalf("TEST_POSTGRES: %v", err)
	}
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	return u.String()
}

func run(tb testing.TB, url, statement string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		tb.Fatalf("connect to TEST_POSTGRES: %v", err)
	}
	defer func() { _ = conn.Close(ctx) }() // the statement has been answered
	if _, err := conn.Exec(ctx, statement); err != nil {
		tb.Fatalf("%s: %v", statement, err)
	}
}
