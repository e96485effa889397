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
	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrate brings the schema to this program's version. Replicas that start together wait
// for each other.
func (db *DB) migrate(ctx context.Context, log *slog.Logger) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	dialect := goose.DialectSQLite3
	opts := []goose.ProviderOption{goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger())}
	if db.engine == Postgres {
		dialect = goose.DialectPostgres
		opts = append(opts, goose.WithSessionLocker(advisoryLock{}))
	}
	p, err := goose.NewProvider(dialect, db.writer, files, opts...)
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	have, known, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("read the schema version: %w", err)
	}
	if have > known {
		return fmt.Errorf("database %s was written by a newer dstack (schema %d, this program knows %d): start that version, or restore the backup from before the upgrade", db.where, have, known)
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
