package store

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ncruces/go-sqlite3/driver"
)

// readers is the size of the pool for reads; they run beside the one writer.
const readers = 4

// cacheSize bounds the pages that a connection keeps, at 16 MiB; a small database takes less.
// With SQLite's own 2 MiB, every look at ten thousand hosts would read the file anew.
const cacheSize = "cache_size(-16384)"

// readerIdle is how long a reader's connection stays open unused.
const readerIdle = 15 * time.Second

// openSQLite makes the file if needed, readable by its owner only: it holds tokens.
func openSQLite(ctx context.Context, path string) (*DB, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("open database: %w", explain(err, path))
	}
	unlock, err := lockFile(path + ".lock")
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	db := &DB{engine: SQLite, where: path, unlock: unlock}
	if err := db.connectSQLite(ctx, path); err != nil {
		_ = unlock() // the first error says more
		return nil, fmt.Errorf("open database %s: %w", path, explain(err, path))
	}
	return db, nil
}

func (db *DB) connectSQLite(ctx context.Context, path string) error {
	// SQLite's driver would make them readable by everybody. They are closed before it opens
	// them: closing any descriptor later would drop its POSIX locks.
	for _, suffix := range []string{"", "-wal", "-shm"} {
		f, err := os.OpenFile(path+suffix, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	var err error
	db.writer, err = sqlitePool(path, 1, "journal_mode(wal)", "synchronous(normal)", "foreign_keys(on)", "journal_size_limit(67108864)", "wal_autocheckpoint(4000)")
	if err != nil {
		return err
	}
	// The writer first: it puts the file in WAL mode.
	if err := db.writer.PingContext(ctx); err != nil {
		_ = db.writer.Close()
		return err
	}
	if db.reader, err = sqlitePool(path, readers, "query_only(on)"); err != nil {
		_ = db.writer.Close()
	}
	return err
}

func sqlitePool(path string, size int, pragmas ...string) (*sql.DB, error) {
	q := url.Values{"modeof": {path}, "_txlock": {"immediate"}, "_pragma": append([]string{"busy_timeout(5000)", cacheSize}, pragmas...)}
	u := url.URL{Scheme: "file", Path: path, OmitHost: true, RawQuery: strings.ReplaceAll(q.Encode(), "+", "%20")}
	connector, err := (&driver.SQLite{}).OpenConnector(u.String())
	if err != nil {
		return nil, err
	}
	pool := sql.OpenDB(keeping{connector})
	pool.SetMaxOpenConns(size)
	pool.SetMaxIdleConns(size)
	if size > 1 { // readers hold megabytes of pages each, and opening one takes a millisecond
		pool.SetConnMaxIdleTime(readerIdle)
	}
	return pool, nil
}

// Sync makes everything that was committed so far survive a loss of power. It costs one
// fsync on SQLite and nothing on Postgres, which syncs each commit.
func (db *DB) Sync() error {
	if db.engine == Postgres {
		return nil
	}
	f, err := os.OpenFile(db.where+"-wal", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("sync database: %w", err)
	}
	err = f.Sync()
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("sync database: %w", err)
	}
	return nil
}
