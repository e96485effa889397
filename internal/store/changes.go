package store

import (
	"context"
	"database/sql"

	"github.com/pressly/goose/v3"
)

// countChanges is migration 125. It counts what is written to the instances of each fleet, so that who
// remembers them need not compare ten thousand versions. Only SQLite counts: it has one writer at a
// time anyway, while those of PostgreSQL would wait for each other, and may wait in a circle.
func countChanges(e Engine) *goose.Migration {
	up, down := []string{createChanges}, []string{`DROP TABLE fleet_changes`}
	if e == SQLite {
		up = append(up, countStored, countNew, countGone, countChanged)
		down = append([]string{`DROP TRIGGER instance_new`, `DROP TRIGGER instance_gone`, `DROP TRIGGER instance_changed`}, down...)
	}
	return goose.NewGoMigration(125, &goose.GoFunc{RunTx: each(up)}, &goose.GoFunc{RunTx: each(down)})
}

func each(statements []string) func(context.Context, *sql.Tx) error {
	return func(ctx context.Context, tx *sql.Tx) error {
		for _, s := range statements {
			if _, err := tx.ExecContext(ctx, s); err != nil {
				return err
			}
		}
		return nil
	}
}

const (
	createChanges = `
CREATE TABLE fleet_changes (
    fleet_id TEXT   PRIMARY KEY,
    changes  BIGINT NOT NULL -- of its instances, ever
)`

	countStored = `
INSERT INTO fleet_changes (fleet_id, changes) SELECT fleet_id, 1 FROM instance GROUP BY fleet_id`

	countNew = `
CREATE TRIGGER instance_new AFTER INSERT ON instance BEGIN
    INSERT INTO fleet_changes (fleet_id, changes) VALUES (NEW.fleet_id, 1)
    ON CONFLICT (fleet_id) DO UPDATE SET changes = changes + 1;
END`

	countGone = `
CREATE TRIGGER instance_gone AFTER DELETE ON instance BEGIN
    UPDATE fleet_changes SET changes = changes + 1 WHERE fleet_id = OLD.fleet_id;
END`

	countChanged = `
CREATE TRIGGER instance_changed AFTER UPDATE ON instance BEGIN
    INSERT INTO fleet_changes (fleet_id, changes) VALUES (NEW.fleet_id, 1)
    ON CONFLICT (fleet_id) DO UPDATE SET changes = changes + 1;
    UPDATE fleet_changes SET changes = changes + 1 WHERE fleet_id = OLD.fleet_id AND OLD.fleet_id <> NEW.fleet_id;
END`
)
