// Package store keeps the server's rows: SQLite in one file by default, Postgres when
// several replicas share them. There is no ORM and no query builder: callers write SQL
// that both engines read ($n parameters, ids TEXT, times BIGINT microseconds UTC) and
// keep it in their sql.go.
//
// # Durability
//
// On SQLite the journal is a write-ahead log with synchronous=NORMAL. A commit is in the
// operating system's page cache before Write returns, so killing the process at any
// moment loses nothing; an fsync per commit (FULL) would only add safety against loss of
// power, at 2 to 10 ms each. Where a commit must survive that too, because money is spent
// on it next, the caller asks for [DB.Sync]. Postgres syncs each commit.
package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"
)

// Engine is the kind of database below a [DB].
type Engine string

// The engines.
const (
	SQLite   Engine = "sqlite"
	Postgres Engine = "postgres"
)

// maxAttempts bounds how often a transaction that lost against another one is repeated.
const maxAttempts = 20

// Config says which database to open.
type Config struct {
	// URL is the path of a SQLite file, made when missing (also as sqlite:///path), or
	// postgres://user:password@host/database.
	URL string
	// Conns bounds the connections to Postgres, of which half are for transactions, 0: 20; there
	// are two at least.
	Conns int
	// Answer bounds how long Postgres may take for an answer, 0: 30 s.
	Answer time.Duration
	// NoEvents leaves the audit log as it is, see [Tx.NoEvents].
	NoEvents bool
	Log      *slog.Logger
}

// DB is an open database at the schema version of this program. It is safe for
// concurrent use.
type DB struct {
	engine   Engine
	where    string // for messages: path, or URL without the password
	reader   *sql.DB
	writer   *sql.DB // SQLite: one connection
	line     line    // of those who write on SQLite
	serverID string
	pg       *pgConfig // nil on SQLite
	unlock   func() error
	noEvents bool
}

// Querier reads. *Tx is one too.
type Querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// Open opens the database, waits for or refuses other owners, and applies what is missing
// of the schema. The errors are sentences for the person who starts the server.
func Open(ctx context.Context, c Config) (*DB, error) {
	if c.URL == "" || c.Log == nil {
		return nil, errors.New("store: URL and Log are required")
	}
	db, err := open(ctx, c)
	if err != nil {
		return nil, err
	}
	db.noEvents = c.NoEvents
	if err := db.migrate(ctx, c.Log); err != nil {
		return nil, errors.Join(explain(err, db.where), db.Close())
	}
	if err := db.loadServerID(ctx); err != nil {
		return nil, errors.Join(explain(err, db.where), db.Close())
	}
	return db, nil
}

func open(ctx context.Context, c Config) (*DB, error) {
	scheme, rest, ok := strings.Cut(c.URL, "://")
	if !ok {
		return openSQLite(ctx, c.URL)
	}
	// The original's URLs name a driver: sqlite+aiosqlite, postgresql+asyncpg.
	scheme, _, _ = strings.Cut(scheme, "+")
	switch scheme {
	case "sqlite", "file":
		return openSQLite(ctx, strings.TrimPrefix(rest, "/")) // sqlite:////absolute, sqlite:///relative
	case "postgres", "postgresql":
		return openPostgres(ctx, "postgres://"+rest, cmp.Or(c.Conns, postgresConns), cmp.Or(c.Answer, answerTimeout))
	}
	return nil, fmt.Errorf("database URL starts with %q: use a file path or postgres://…", scheme)
}

// Close ends all connections and lets another process open a SQLite file.
func (db *DB) Close() error {
	err := db.writer.Close()
	if db.reader != db.writer {
		err = errors.Join(err, db.reader.Close())
	}
	if db.unlock != nil {
		err = errors.Join(err, db.unlock())
	}
	return err
}

// Engine tells which engine this is, for the few statements that must differ.
func (db *DB) Engine() Engine { return db.engine }

// ServerID is the identity of this database and so of the server that uses it: made up
// once, a UUID. Whatever the server creates at a cloud is marked with it.
func (db *DB) ServerID() string { return db.serverID }

// Read returns a handle for single reads outside of a transaction.
func (db *DB) Read() Querier { return db.querier(db.reader) }

func (db *DB) querier(q Querier) Querier {
	if db.engine == SQLite {
		return sqliteReader{q}
	}
	return q
}

// Snapshot runs fn in a read-only transaction: its queries see one state.
func (db *DB) Snapshot(ctx context.Context, fn func(q Querier) error) error {
	opts := &sql.TxOptions{ReadOnly: true}
	if db.engine == Postgres {
		opts.Isolation = sql.LevelRepeatableRead
	}
	tx, err := db.reader.BeginTx(ctx, opts)
	if err != nil {
		return explain(fmt.Errorf("begin read: %w", err), db.where)
	}
	defer func() { _ = tx.Rollback() }() // nothing was written
	return explain(fn(db.querier(tx)), db.where)
}

// Write runs fn in a transaction that is serializable on both engines and commits it when
// fn returns nil. SQLite runs one at a time; those that wait in line share a commit. Postgres
// may find that concurrent transactions have no order; then fn runs again, so it must not do
// anything but SQL on tx (see [Tx.OnCommit]), and it must return the errors of its statements.
// There is no I/O to others inside, and no Write inside a Write.
func (db *DB) Write(ctx context.Context, fn func(tx *Tx) error) error {
	return db.write(ctx, false, fn)
}

// WriteFirst is [DB.Write] for one large transaction on which many wait: it goes before what
// waits in line, though not twice in a row.
func (db *DB) WriteFirst(ctx context.Context, fn func(tx *Tx) error) error {
	return db.write(ctx, true, fn)
}

func (db *DB) write(ctx context.Context, first bool, do func(tx *Tx) error) error {
	fn := func(tx *Tx) error {
		tx.noEvents = db.noEvents
		return do(tx)
	}
	for attempt := 1; ; attempt++ {
		var err error
		if db.engine == SQLite {
			err = db.line.write(ctx, db.writer, place{first: first, alone: attempt > 1}, fn)
		} else {
			err = db.writeOnce(ctx, fn)
		}
		if err == nil || attempt == maxAttempts || !retryable(err) || ctx.Err() != nil {
			return explain(err, db.where)
		}
		pause := rand.N(time.Duration(attempt) * 2 * time.Millisecond)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}

// writeOnce is Write on Postgres.
func (db *DB) writeOnce(ctx context.Context, fn func(tx *Tx) error) (err error) {
	conn, err := db.conn(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	raw, err := conn.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelSerializable})
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	tx := &Tx{tx: raw}
	committed := false
	defer func() { // also when fn panics
		if !committed {
			call(tx.undone)
		}
		_ = raw.Rollback() // a no-op after Commit
	}()
	if err := fn(tx); err != nil {
		return err
	}
	if err := raw.Commit(); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	committed = true
	call(tx.hooks)
	return nil
}

func (db *DB) conn(ctx context.Context) (*sql.Conn, error) {
	wait, cancel := context.WithTimeoutCause(ctx, writerTimeout, errBusy)
	defer cancel()
	conn, err := db.writer.Conn(wait)
	if err != nil && context.Cause(wait) != nil {
		return nil, fmt.Errorf("wait for the database: %w", context.Cause(wait))
	}
	return conn, err
}

// Tx is one write transaction, valid until the function given to [DB.Write] returns.
type Tx struct {
	tx     *sql.Tx
	sqlite bool
	hooks  []func()
	undone []func()

	noEvents bool
}

// NoEvents says that nothing is to be written into the audit log.
func (tx *Tx) NoEvents() bool { return tx.noEvents }

func (tx *Tx) text(query string) string {
	if tx.sqlite {
		return numbered(query)
	}
	return query
}

// context is that of a statement. On SQLite none is interrupted: it would undo the whole
// transaction, which others share, and takes no longer than it takes.
func (tx *Tx) context(ctx context.Context) context.Context {
	if tx.sqlite && ctx.Err() == nil {
		return context.WithoutCancel(ctx)
	}
	return ctx
}

// ExecContext runs a statement.
func (tx *Tx) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	return tx.tx.ExecContext(tx.context(ctx), tx.text(query), args...)
}

// QueryContext runs a query; close the rows before the next statement.
func (tx *Tx) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return tx.tx.QueryContext(tx.context(ctx), tx.text(query), args...)
}

// QueryRowContext runs a query of at most one row.
func (tx *Tx) QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row {
	return tx.tx.QueryRowContext(tx.context(ctx), tx.text(query), args...)
}

// OnCommit has fn called once the transaction is committed, before Write returns: the place
// to wake objects. fn must be quick and must not write.
func (tx *Tx) OnCommit(fn func()) { tx.hooks = append(tx.hooks, fn) }

// OnUndo has fn called if what was written is not committed, before somebody else writes: what has to be
// known of a write to those who read it the moment that it is committed is said before, and taken back.
// fn must be quick and must not write.
func (tx *Tx) OnUndo(fn func()) { tx.undone = append(tx.undone, fn) }

func call(hooks []func()) {
	for _, hook := range hooks {
		hook()
	}
}

// Guarded checks a write that is guarded by a version, state or epoch: it turns no changed
// row into [ErrConflict].
func Guarded(res sql.Result, err error) error {
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err != nil {
		return err
	}
	if n == 0 {
		return ErrConflict
	}
	return nil
}

// EachRow calls scan for every row and closes them. It takes what QueryContext returns.
func EachRow(rows *sql.Rows, err error, scan func(rows *sql.Rows) error) error {
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // rows.Err says what matters
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
