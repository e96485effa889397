package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrate brings the schema to this program's version. Replicas that start together wait
// for each other.
func (db *DB) migrate(ctx context.Context, log *slog.Logger) (err error) {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	dialect := goose.DialectSQLite3
	// Numbers are given in blocks by subject: a new migration may have a lower one than others that
	// a database has seen.
	opts := []goose.ProviderOption{goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()), goose.WithAllowOutofOrder(true)}
	if db.engine == Postgres {
		dialect = goose.DialectPostgres
		opts = append(opts, goose.WithSessionLocker(advisoryLock{}))
	}
	opts = append(opts, goose.WithGoMigrations(countChanges(db.engine)))
	to := db.writer
	if db.engine == Postgres { // a migration, or another replica's, may take longer than an answer
		to = stdlib.OpenDB(*db.pg.ConnConfig)
		defer func() { err = errors.Join(err, to.Close()) }()
	}
	p, err := goose.NewProvider(dialect, to, files, opts...)
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	if err := db.refuseNewer(ctx, p); err != nil {
		return err
	}
	done, err := p.Up(ctx)
	for _, m := range done {
		log.Debug("migration applied", "file", m.Source.Path, "dur", m.Duration)
	}
	if err != nil {
		return fmt.Errorf("migrate database %s: %w", db.where, err)
	}
	return nil
}

// refuseNewer refuses a database that has seen a migration which this program does not know.
func (db *DB) refuseNewer(ctx context.Context, p *goose.Provider) error {
	have, err := p.GetDBVersion(ctx)
	if err != nil {
		return fmt.Errorf("read the schema version: %w", err)
	}
	if have == 0 { // new: not even the list of migrations is there
		return nil
	}
	known := map[int64]bool{}
	for _, m := range p.ListSources() {
		known[m.Version] = true
	}
	rows, err := db.reader.QueryContext(ctx, selectMigrations)
	err = EachRow(rows, err, func(rows *sql.Rows) error {
		var version int64
		if err := rows.Scan(&version); err != nil || known[version] {
			return err
		}
		return fmt.Errorf("database %s was written by a newer dstack (this program does not know migration %d of its schema): start that version, or restore the backup from before the upgrade", db.where, version)
	})
	return err
}

const selectMigrations = `SELECT version_id FROM goose_db_version WHERE version_id > 0 ORDER BY version_id DESC`

const (
	selectServerID = `SELECT value FROM setting WHERE name = 'server_id'`
	insertServerID = `INSERT INTO setting (name, value) VALUES ('server_id', $1)`
)

func (db *DB) loadServerID(ctx context.Context) error {
	err := db.reader.QueryRowContext(ctx, selectServerID).Scan(&db.serverID)
	if !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	return db.Write(ctx, func(tx *Tx) error { // again inside: another replica may start too
		err := tx.QueryRowContext(ctx, selectServerID).Scan(&db.serverID)
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		db.serverID = uuid.NewString()
		_, err = tx.ExecContext(ctx, insertServerID, db.serverID)
		return err
	})
}
