package store

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"

	sqlite "github.com/ncruces/go-sqlite3/driver"
)

// maxStatements bounds the statements that a connection keeps. The program has fewer texts,
// but for lists of parameters, which come in many lengths.
const maxStatements = 256

// keeping makes SQLite connections that keep their prepared statements: parsing and planning
// one takes longer than running it.
type keeping struct{ driver.Connector }

// Connect implements driver.Connector.
func (k keeping) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := k.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	conn, ok := c.(sqliteConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the driver's connection is a %T", c), c.Close())
	}
	return &keeper{sqliteConn: conn, idle: map[string]sqliteStmt{}}, nil
}

// sqliteConn and sqliteStmt are what database/sql uses of the driver's.
type (
	sqliteConn interface {
		sqlite.Conn
		driver.ExecerContext
		driver.NamedValueChecker
	}
	sqliteStmt interface {
		driver.Stmt
		driver.StmtExecContext
		driver.StmtQueryContext
		driver.NamedValueChecker
	}
)

// keeper is a connection; database/sql lets one goroutine at a time use it.
type keeper struct {
	sqliteConn
	idle map[string]sqliteStmt // by text: statements that nobody uses
}

// PrepareContext implements driver.ConnPrepareContext.
func (c *keeper) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	if s := c.idle[query]; s != nil {
		delete(c.idle, query)
		return &kept{sqliteStmt: s, conn: c, query: query}, nil
	}
	s, err := c.sqliteConn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	stmt, ok := s.(sqliteStmt)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the driver's statement is a %T", s), s.Close())
	}
	return &kept{sqliteStmt: stmt, conn: c, query: query}, nil
}

// Close implements driver.Conn.
func (c *keeper) Close() error {
	var errs []error
	for _, s := range c.idle {
		errs = append(errs, s.Close())
	}
	clear(c.idle)
	return errors.Join(append(errs, c.sqliteConn.Close())...)
}

// keep takes a statement back, in place of another when there are too many.
func (c *keeper) keep(query string, s sqliteStmt) error {
	if c.idle[query] != nil { // prepared twice at a time
		return s.Close()
	}
	var err error
	if len(c.idle) >= maxStatements {
		for text, other := range c.idle {
			delete(c.idle, text)
			err = other.Close()
			break
		}
	}
	c.idle[query] = s
	return err
}

// kept is a statement in use.
type kept struct {
	sqliteStmt
	conn   *keeper
	query  string
	failed bool // it may be in any state
}

// ExecContext implements driver.StmtExecContext.
func (s *kept) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	r, err := s.sqliteStmt.ExecContext(ctx, args)
	s.failed = s.failed || err != nil
	return r, err
}

// QueryContext implements driver.StmtQueryContext.
func (s *kept) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	r, err := s.sqliteStmt.QueryContext(ctx, args)
	s.failed = s.failed || err != nil
	return r, err
}

// Close implements driver.Stmt; the statement's rows are closed before.
func (s *kept) Close() error {
	if s.failed {
		return s.sqliteStmt.Close()
	}
	return s.conn.keep(s.query, s.sqliteStmt)
}
