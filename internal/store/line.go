package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// writerTimeout bounds the wait for the writer. Only a Write inside a Write, or a
// transaction that waits for something else, makes it that long.
const writerTimeout = 30 * time.Second

// maxShared and maxOpen bound the writes that share a transaction: their number, and how long
// the first of them waits for the commit.
const (
	maxShared = 64
	maxOpen   = 8 * time.Millisecond
)

// errShared says that a transaction was undone because of another write that shared it.
var errShared = errors.New("a shared transaction was undone")

// line is where writes wait for the one connection that writes to SQLite. Whoever has the
// turn hands the open transaction on to the next, which adds its statements behind a
// savepoint; the last of a group commits for all of it. A commit costs as much as many
// statements, and writes that follow each other change the same pages.
type line struct {
	mu      sync.Mutex
	busy    bool // somebody has the turn
	skipped bool // the last turn was of one that goes first
	first   []chan *shared
	others  []chan *shared
}

// shared is a transaction of one write or more.
type shared struct {
	tx     *sql.Tx
	conn   *sql.Conn
	began  time.Time
	writes int
	undone []func()      // of the writes that are part of it, see [Tx.OnUndo]
	broken error         // why it can only be undone
	done   chan struct{} // closed when it is over
	err    error         // what became of it, valid then
}

// place is how a write stands in line.
type place struct {
	first bool // before the others, in a transaction of its own
	alone bool // in a transaction of its own
}

// write waits for the turn, runs fn and returns when what it wrote is committed.
func (l *line) write(ctx context.Context, db *sql.DB, p place, fn func(tx *Tx) error) error {
	open, err := l.enter(ctx, p)
	if err != nil {
		return err
	}
	if open == nil {
		if open, err = begin(ctx, db); err != nil {
			l.leave()
			return err
		}
	}
	tx := &Tx{tx: open.tx, sqlite: true}
	ran := false
	defer func() {
		if !ran { // fn panics: those behind it must not wait for ever
			call(tx.undone)
			open.undo()
			l.pass(open, p)
		}
	}()
	err = open.run(tx, fn)
	ran = true
	l.pass(open, p)
	<-open.done
	if err != nil {
		return err
	}
	if open.err != nil {
		return open.err
	}
	call(tx.hooks)
	return nil
}

// enter waits for the turn. It returns the transaction that is open, nil for none.
func (l *line) enter(ctx context.Context, p place) (*shared, error) {
	l.mu.Lock()
	if !l.busy {
		l.busy = true
		l.mu.Unlock()
		return nil, nil
	}
	mine := make(chan *shared, 1)
	queue := &l.others
	if p.first || p.alone {
		queue = &l.first
	}
	*queue = append(*queue, mine)
	l.mu.Unlock()

	timer := time.NewTimer(writerTimeout)
	defer timer.Stop()
	var cause error
	select {
	case open := <-mine:
		return open, nil
	case <-timer.C:
		cause = errBusy
	case <-ctx.Done():
		cause = context.Cause(ctx)
	}
	l.mu.Lock()
	at := slices.Index(*queue, mine)
	if at >= 0 {
		*queue = slices.Delete(*queue, at, at+1)
	}
	l.mu.Unlock()
	if at < 0 { // the turn came meanwhile
		if open := <-mine; open != nil {
			l.pass(open, p)
		} else {
			l.leave()
		}
	}
	return nil, fmt.Errorf("wait for the database: %w", cause)
}

// pass hands the open transaction on, or ends it when there is nobody to take it.
func (l *line) pass(open *shared, p place) {
	if open.room() && !p.first && !p.alone && l.hand(open) {
		return
	}
	open.end()
	l.leave()
}

// hand gives the turn with an open transaction to the next that would share it, false when
// there is none. Who goes first waits for the end of the group.
func (l *line) hand(open *shared) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.others) == 0 {
		return false
	}
	next := l.others[0]
	l.others = slices.Delete(l.others, 0, 1)
	next <- open
	return true
}

// leave gives the turn to the next. One that goes first does so after each group of others.
func (l *line) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	queue := &l.others
	l.skipped = len(l.first) > 0 && (!l.skipped || len(l.others) == 0)
	if l.skipped {
		queue = &l.first
	}
	if len(*queue) == 0 {
		l.busy = false
		return
	}
	next := (*queue)[0]
	*queue = slices.Delete(*queue, 0, 1)
	next <- nil
}

// begin opens a transaction that does not end with ctx: it may be of others too.
func begin(ctx context.Context, db *sql.DB) (*shared, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ctx = context.WithoutCancel(ctx)
	conn, err := db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("begin: %w", err), conn.Close())
	}
	return &shared{tx: tx, conn: conn, began: time.Now(), done: make(chan struct{})}, nil
}

// room says that another write may join.
func (s *shared) room() bool {
	return s.broken == nil && s.writes < maxShared && time.Since(s.began) < maxOpen
}

// run adds a write to the transaction: all of it or nothing.
func (s *shared) run(tx *Tx, fn func(tx *Tx) error) error {
	s.writes++
	if s.writes > 1 {
		s.check()
		if s.exec("SAVEPOINT mine"); s.broken != nil {
			return s.broken
		}
	}
	if err := fn(tx); err != nil {
		call(tx.undone)
		s.undo()
		return err
	}
	s.undone = append(s.undone, tx.undone...)
	if s.writes > 1 {
		s.exec("RELEASE mine")
	}
	return s.broken
}

// undo takes the last write back.
func (s *shared) undo() {
	if s.writes == 1 {
		s.broken = errUndone // nobody else has written yet
		return
	}
	s.exec("ROLLBACK TO mine")
	s.exec("RELEASE mine")
}

// errUndone ends a transaction without a commit.
var errUndone = errors.New("undone")

// exec runs a statement of the group's own. An error is no one's fault: SQLite undoes whole
// transactions by itself, when the disk is full for example, and then there is no savepoint.
func (s *shared) exec(statement string) {
	if s.broken != nil {
		return
	}
	if _, err := s.tx.ExecContext(context.Background(), statement); err != nil {
		s.broken = fmt.Errorf("%w: %w", errShared, err)
	}
}

// check sees whether there is still a transaction: a savepoint would begin another one, and
// nobody would miss what went with the first.
func (s *shared) check() {
	err := s.conn.Raw(func(c any) error {
		if c.(*keeper).Raw().GetAutocommit() {
			return errShared
		}
		return nil
	})
	if err != nil && s.broken == nil {
		s.broken = err
	}
}

// end commits what the writes have left, or undoes it all.
func (s *shared) end() {
	if s.broken != nil {
		call(s.undone)
		_ = s.tx.Rollback() // SQLite may have done it already
		s.err = s.broken
	} else if err := s.tx.Commit(); err != nil {
		call(s.undone)
		s.err = fmt.Errorf("commit: %w", err)
	}
	s.err = errors.Join(s.err, s.conn.Close())
	close(s.done)
}
