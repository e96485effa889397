package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/ncruces/go-sqlite3"
)

var (
	// ErrConflict says that a row is not as it was read: reload and decide again.
	ErrConflict = errors.New("row changed meanwhile")
	// ErrNotFound says that there is no such row.
	ErrNotFound = errors.New("no such row")
	// ErrFull says that the database's disk is full. Nothing was committed.
	ErrFull = errors.New("disk full")

	errBusy = errors.New("no connection became free: a transaction waits for something else, or is nested")
)

// ForeignKey is what [Constraint] returns for any violated reference: SQLite does not say
// which one it was.
const ForeignKey = "foreign_key"

// Constraint names the constraint that err violates, "" when it violates none:
// <table>_pkey, <table>_<column>_…_key for any other uniqueness of columns (whatever its
// index is called: SQLite does not say), the name of a CHECK or of a unique index over
// expressions, <table>_<column>_not_null, or [ForeignKey]. It is the same on both engines.
func Constraint(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return postgresConstraint(e)
	}
	if e, ok := errors.AsType[*sqlite3.Error](err); ok && e.Code() == sqlite3.CONSTRAINT {
		return sqliteConstraint(e)
	}
	return ""
}

func postgresConstraint(e *pgconn.PgError) string {
	switch e.Code {
	case "23503":
		return ForeignKey
	case "23502":
		return e.TableName + "_" + e.ColumnName + "_not_null"
	case "23505":
		return uniqueName(e)
	}
	return e.ConstraintName
}

// uniqueName names a uniqueness by its columns, as SQLite reports it. They are only in the
// detail: "Key (project_id, name)=(1, x) already exists.", the words around translated.
func uniqueName(e *pgconn.PgError) string {
	columns, _, ok := strings.Cut(e.Detail, ")=(")
	_, columns, ok2 := strings.Cut(columns, "(")
	if !ok || !ok2 || strings.Contains(columns, "(") || e.ConstraintName == e.TableName+"_pkey" {
		return e.ConstraintName // of a primary key, or over expressions
	}
	return e.TableName + "_" + strings.ReplaceAll(columns, ", ", "_") + "_key"
}

func sqliteConstraint(e *sqlite3.Error) string {
	// "sqlite3: constraint failed: UNIQUE constraint failed: user.name, user.project_id"
	msg := e.Error()
	_, what, _ := strings.Cut(msg[strings.LastIndex(msg, "constraint failed")+len("constraint failed"):], ": ")
	switch e.ExtendedCode() {
	case sqlite3.CONSTRAINT_FOREIGNKEY:
		return ForeignKey
	case sqlite3.CONSTRAINT_CHECK:
		return what
	case sqlite3.CONSTRAINT_NOTNULL:
		return strings.ReplaceAll(what, ".", "_") + "_not_null"
	case sqlite3.CONSTRAINT_PRIMARYKEY:
		table, _, _ := strings.Cut(what, ".")
		return table + "_pkey"
	}
	if name, ok := strings.CutPrefix(what, "index '"); ok { // an index over expressions
		return strings.TrimSuffix(name, "'")
	}
	var table string
	var name strings.Builder
	for column := range strings.SplitSeq(what, ", ") {
		var c string
		table, c, _ = strings.Cut(column, ".")
		name.WriteString("_" + c)
	}
	return table + name.String() + "_key"
}

// BadValue says that err is about a value that the database cannot store, however often it is
// tried: text with a NUL, a number out of its range.
func BadValue(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return strings.HasPrefix(e.Code, "22") || strings.HasPrefix(e.Code, "54") // data exception, limit of the program
	}
	return errors.Is(err, sqlite3.MISMATCH) || errors.Is(err, sqlite3.TOOBIG)
}

// readOnly is Postgres' code for a write in a session that may only read.
const readOnly = "25006"

// Down says that err is about a database that cannot be used for now, whatever was asked of it:
// it does not answer, starts or stops, takes no more connections, or no writes. What was about to be
// committed may be stored or not.
func Down(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch e.Code {
		case "57P01", "57P02", "57P03", "53300", readOnly: // told to stop, crashed, starting or stopping; too many connections
			return true
		}
		return strings.HasPrefix(e.Code, "08") // a connection that failed
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok || pgconn.Timeout(err) && !errors.Is(err, context.Canceled) {
		return true
	}
	for _, gone := range []error{errBusy, driver.ErrBadConn, pgconn.ErrConnClosed, sqlite3.BUSY, sqlite3.IOERR, sqlite3.CANTOPEN, sqlite3.READONLY} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}

// retryable reports whether the transaction lost against a concurrent one and was undone.
func retryable(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code == "40001" || e.Code == "40P01" // serialization failure, deadlock
	}
	// Another process, such as the sqlite3 shell; or another write of the transaction.
	return errors.Is(err, sqlite3.BUSY) || errors.Is(err, errShared)
}

// One turns database/sql's answer for no row into [ErrNotFound].
func One(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	return err
}

// explain adds what a person can do about the errors that are about the machine.
func explain(err error, where string) error {
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return err
	case isFull(err):
		return fmt.Errorf("%w: the disk of database %s is full: free some space, then the server goes on by itself: %w", ErrFull, where, err)
	case isReadOnly(err):
		return fmt.Errorf("database %s takes no writes: when it does again, the server goes on by itself: %w", where, err)
	case errors.Is(err, sqlite3.NOTADB), errors.Is(err, sqlite3.CORRUPT):
		return fmt.Errorf("database %s is damaged or not SQLite: restore it from a backup: %w", where, err)
	case errors.Is(err, sqlite3.CANTOPEN), errors.Is(err, sqlite3.PERM), errors.Is(err, sqlite3.READONLY), errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("database %s cannot be written: check the owner and the permissions of the file and its directory: %w", where, err)
	}
	return err
}

func isReadOnly(err error) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == readOnly
}

func isFull(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code == "53100"
	}
	return errors.Is(err, sqlite3.FULL) || errors.Is(err, syscall.ENOSPC)
}
