package store_test

import (
	"bufio"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/ncruces/go-sqlite3"

	"dstack/internal/store"
	"dstack/internal/store/storetest"
)

func tryOpen(url string) error {
	db, err := store.Open(context.Background(), store.Config{URL: url, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	return db.Close()
}

func TestSecondServerIsRefused(t *testing.T) {
	path := storetest.Path(t)
	db := storetest.Open(t, path)
	err := tryOpen(path)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("another dstack server uses it (process %d)", os.Getpid())) {
		t.Errorf("Open of an open file = %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := tryOpen(path); err != nil {
		t.Errorf("Open after Close = %v", err)
	}
}

func TestFilesArePrivate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "dir with # and ?", "server.db")
	db := storetest.Open(t, "sqlite:///"+path)
	if err := write(t, db, `DELETE FROM replica`); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(files) < 3 {
		t.Fatalf("%v, %v, want the file, its log and its lock", files, err)
	}
	for _, f := range files {
		info, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", f.Name(), info.Mode())
		}
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	for _, unknown := range []int{99999, 42} { // numbers do not say which is newer
		storetest.EachURL(t, func(t *testing.T, url string) {
			t.Run("from the future", func(t *testing.T) {
				db := storetest.Open(t, url)
				if err := write(t, db, `INSERT INTO goose_db_version (version_id, is_applied) VALUES ($1, $2)`, unknown, true); err != nil {
					t.Fatal(err)
				}
			})
			if err := tryOpen(url); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("written by a newer dstack (this program does not know migration %d ", unknown)) {
				t.Errorf("Open = %v", err)
			}
		})
	}
}

func TestMissingMigrationIsMadeUp(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, url string) {
		t.Run("before 62 was written", func(t *testing.T) {
			db := storetest.Open(t, url)
			for _, undo := range []string{
				`DELETE FROM goose_db_version WHERE version_id = 62`, `DROP INDEX run_order`, `DROP INDEX run_active_order`,
				`CREATE INDEX run_submitted ON run (submitted_at)`,
			} {
				if err := write(t, db, undo); err != nil {
					t.Fatal(err)
				}
			}
		})
		db := storetest.Open(t, url)
		if err := write(t, db, `DROP INDEX run_order`); err != nil {
			t.Errorf("the migration was not made up for: %v", err)
		}
	})
}

func TestOpenExplains(t *testing.T) {
	dir := t.TempDir()
	garbage := filepath.Join(dir, "garbage.db")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("this is not a database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string]string{
		garbage:                          "restore it from a backup",
		dir:                              "is a directory",
		filepath.Join(dir, "file", "db"): "not a directory",
		"mysql://host/db":                `starts with "mysql"`,
		"postgres://user:hunter2@127.0.0.1:1/db?connect_timeout=2": "connect to database postgres://user:xxxxx@127.0.0.1:1/db",
	} {
		err := tryOpen(url)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("Open(%s) = %v, want %q", url, err, want)
		}
	}
}

func TestDiskFull(t *testing.T) {
	db := storetest.SQLite(t)
	err := db.Write(t.Context(), func(tx *store.Tx) error {
		var pages int
		if err := tx.QueryRowContext(t.Context(), `PRAGMA max_page_count = 1`).Scan(&pages); err != nil {
			return err
		}
		_, err := tx.ExecContext(t.Context(), `INSERT INTO setting (name, value) VALUES ('big', $1)`, strings.Repeat("x", 1<<20))
		return err
	})
	if !errors.Is(err, store.ErrFull) || !strings.Contains(err.Error(), "free some space") {
		t.Errorf("Write = %v, want ErrFull", err)
	}
}

func TestDown(t *testing.T) {
	_, refused := pgconn.Connect(t.Context(), "postgres://user@127.0.0.1:1/db?connect_timeout=2")
	for name, tt := range map[string]struct {
		err  error
		want bool
	}{
		"nobody answers":  {fmt.Errorf("begin: %w", refused), true},
		"it stops":        {&pgconn.PgError{Code: "57P01"}, true},
		"takes no writes": {&pgconn.PgError{Code: "25006"}, true},
		"lost connection": {&pgconn.PgError{Code: "08006"}, true},
		"pool":            {driver.ErrBadConn, true},
		"locked":          {sqlite3.BUSY, true},
		"unique":          {&pgconn.PgError{Code: "23505"}, false},
		"cancelled":       {&pgconn.PgError{Code: "57014"}, false},
		"syntax":          {sqlite3.ERROR, false},
		"no row":          {store.ErrNotFound, false},
		"none":            {nil, false},
	} {
		if got := store.Down(tt.err); got != tt.want {
			t.Errorf("%s: Down(%v) = %v", name, tt.err, got)
		}
	}
}

func TestNestedWriteIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := storetest.SQLite(t)
		err := db.Write(t.Context(), func(*store.Tx) error {
			return db.Write(t.Context(), func(*store.Tx) error { return nil })
		})
		if err == nil || !strings.Contains(err.Error(), "nested") {
			t.Errorf("Write in a Write = %v", err)
		}
	})
}

// TestConcurrentCounts has transactions read and then write the same row.
func TestConcurrentCounts(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		if err := write(t, db, `INSERT INTO setting (name, value) VALUES ('n', '0')`); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		const workers, each = 4, 25
		for range workers {
			wg.Go(func() {
				for range each {
					if err := db.Write(context.Background(), increment); err != nil {
						t.Errorf("Write: %v", err)
					}
				}
			})
		}
		wg.Wait()
		var n int
		err := db.Snapshot(t.Context(), func(q store.Querier) error {
			return q.QueryRowContext(t.Context(), `SELECT value FROM setting WHERE name = $1`, "n").Scan(&n)
		})
		if err != nil || n != workers*each {
			t.Errorf("counted %d, %v, want %d", n, err, workers*each)
		}
	})
}

func increment(tx *store.Tx) error {
	var n int
	if err := tx.QueryRowContext(context.Background(), `SELECT value FROM setting WHERE name = 'n'`).Scan(&n); err != nil {
		return err
	}
	return store.Guarded(tx.ExecContext(context.Background(), `UPDATE setting SET value = $1 WHERE name = 'n'`, fmt.Sprint(n+1)))
}

func TestSnapshotSeesOneState(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		count := func(q store.Querier) (n int) {
			t.Helper()
			if err := q.QueryRowContext(t.Context(), `SELECT count(*) FROM setting`).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		err := db.Snapshot(t.Context(), func(q store.Querier) error {
			before := count(q)
			if err := write(t, db, `INSERT INTO setting (name, value) VALUES ('new', '')`); err != nil {
				return err
			}
			if after := count(q); after != before {
				t.Errorf("%d rows, then %d", before, after)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

// TestKill9 kills a process that writes, at some moment, and checks that every commit it
// told of is there.
func TestKill9(t *testing.T) {
	if path := os.Getenv("STORE_TEST_KILL9"); path != "" {
		writeForEver(t, path)
	}
	if runtime.GOOS == "windows" {
		t.Skip("the child is killed with SIGKILL")
	}
	path := storetest.Path(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestKill9$")
	cmd.Env = append(os.Environ(), "STORE_TEST_KILL9="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	last := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if _, err := fmt.Sscanf(lines.Text(), "committed %d", &last); err == nil && last == 200 {
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = cmd.Wait() // killed
	var n int
	db := storetest.Open(t, path)
	if err := db.Read().QueryRowContext(t.Context(), `SELECT value FROM setting WHERE name = 'n'`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	if last < 200 || n < last {
		t.Errorf("%d is stored, %d was committed", n, last)
	}
}

func writeForEver(t *testing.T, path string) {
	db := storetest.Open(t, path)
	if err := write(t, db, `INSERT INTO setting (name, value) VALUES ('n', '0')`); err != nil {
		t.Fatal(err)
	}
	for n := 1; ; n++ {
		if err := db.Write(t.Context(), increment); err != nil {
			t.Fatal(err)
		}
		fmt.Println("committed", n)
	}
}

func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "server.db")
	for b.Loop() {
		if err := tryOpen(path); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpenNew(b *testing.B) {
	dir, n := b.TempDir(), 0
	for b.Loop() {
		n++
		if err := tryOpen(filepath.Join(dir, fmt.Sprint(n))); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWrite(b *testing.B) {
	db := storetest.SQLite(b)
	doc := strings.Repeat("x", 2000)
	for b.Loop() {
		err := db.Write(b.Context(), func(tx *store.Tx) error {
			_, err := tx.ExecContext(b.Context(), `INSERT INTO setting (name, value) VALUES ('n', $1)
			                                       ON CONFLICT (name) DO UPDATE SET value = excluded.value`, doc)
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	db := storetest.SQLite(b)
	for b.Loop() {
		var epoch int64
		if err := db.Read().QueryRowContext(b.Context(), `SELECT epoch FROM shard WHERE id = $1`, 7).Scan(&epoch); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSync(b *testing.B) {
	db := storetest.SQLite(b)
	for b.Loop() {
		if err := db.Sync(); err != nil {
			b.Fatal(err)
		}
	}
}

func TestSync(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		if err := db.Sync(); err != nil {
			t.Error(err)
		}
	})
}

func TestTime(t *testing.T) {
	if store.Micros(time.Time{}) != 0 || !store.Time(0).IsZero() {
		t.Error("the zero time is not 0")
	}
	at := time.Date(2026, 11, 24, 12, 30, 0, 123_456_000, time.FixedZone("", 3600))
	if got := store.Time(store.Micros(at)); !got.Equal(at) || got.Location() != time.UTC {
		t.Errorf("%v came back as %v", at, got)
	}
}
