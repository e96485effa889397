package logstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"dstack/internal/store"
)

const (
	selectStream = `SELECT size, last_at FROM log_stream WHERE job_id = $1 AND source = $2`
	insertStream = `
INSERT INTO log_stream (job_id, source, size, last_at, written_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (job_id, source) DO NOTHING`
	updateStream = `
UPDATE log_stream SET size = $3, last_at = $4, written_at = $5
WHERE job_id = $1 AND source = $2 AND size = $6`
	insertChunk = `INSERT INTO log_chunk (job_id, source, start, at, data) VALUES `

	// selectPage has the data of chunks up to the one that fills the page, so that what is
	// not shown is not sent.
	selectPage = `
SELECT start, at, CASE WHEN upto - length(data) < $7 THEN data END
FROM   (SELECT start, at, data, sum(length(data)) OVER (ORDER BY start %[2]s) AS upto
        FROM   (SELECT start, at, data FROM log_chunk
                WHERE  job_id = $1 AND source = $2 AND start %[1]s $3 AND at > $4 AND at <= $5
                ORDER BY start %[2]s LIMIT $6) AS chunk) AS page
ORDER BY start %[2]s`

	selectStart = `SELECT coalesce(max(start), 0) FROM log_chunk WHERE job_id = $1 AND source = $2 AND start <= $3`

	selectOldJobs = `
SELECT job_id FROM log_stream GROUP BY job_id HAVING max(written_at) < $1 ORDER BY job_id LIMIT 1000`
	selectWritten = `SELECT coalesce(max(written_at), 0) FROM log_stream WHERE job_id = $1`
	deleteStreams = `DELETE FROM log_stream WHERE job_id = $1`
	deleteChunks  = `
DELETE FROM log_chunk WHERE (job_id, source, start) IN (SELECT job_id, source, start FROM log_chunk WHERE job_id = $1 ORDER BY source, start LIMIT $2)`
)

// deleteBatch is how many chunks are deleted in one transaction, some 16 MB: others write in between, and no statement
// takes longer than a database may take to answer.
const deleteBatch = 256

// DB is a [Store] in the database, for servers that share one: each of them shows, and goes
// on with, what another has stored. A chunk is a row; tokens are byte offsets.
type DB struct{ db *store.DB }

// NewDB returns a store in db.
func NewDB(db *store.DB) *DB { return &DB{db} }

// growth takes part in the transaction of an Append: before may refuse it, after is told when the
// stream has grown.
type growth interface {
	before(ctx context.Context, tx *store.Tx) error
	after(ctx context.Context, tx *store.Tx, from, to int64) error
}

func checkStream(jobID string, src Source) error {
	if !validID(jobID) || src != Job && src != Runner {
		return fmt.Errorf("%w: %q", ErrJobID, jobID)
	}
	return nil
}

// Append implements [Store]. Writers that race for a stream, such as a server that does not
// know yet that it was replaced, run one after the other, each from where the stream ends then.
func (d *DB) Append(ctx context.Context, jobID string, src Source, chunks ...Chunk) (int64, error) {
	return d.grow(ctx, jobID, src, chunks, nil)
}

// grow is Append with g, which may be nil, taking part.
func (d *DB) grow(ctx context.Context, jobID string, src Source, chunks []Chunk, g growth) (int64, error) {
	if err := checkStream(jobID, src); err != nil {
		return 0, err
	}
	for {
		size, gap, err := d.append(ctx, jobID, src, chunks, g)
		switch {
		case err == nil:
			return size, gap
		case !errors.Is(err, store.ErrConflict) || ctx.Err() != nil:
			return 0, fmt.Errorf("append to %s log of job %s: %w", src, jobID, err)
		}
	}
}

// append stores what is new of chunks in one transaction. It returns store.ErrConflict when
// another writer was faster, and a *GapError beside the size that was reached before the gap.
func (d *DB) append(ctx context.Context, jobID string, src Source, chunks []Chunk, g growth) (size int64, gap, err error) {
	err = d.db.Write(ctx, func(tx *store.Tx) error {
		if g != nil {
			if err := g.before(ctx, tx); err != nil {
				return err
			}
		}
		have, last, err := d.stream(ctx, tx, jobID, src)
		if err != nil {
			return err
		}
		var fresh []Event
		fresh, size, gap = continueStream(have, last, chunks)
		if len(fresh) == 0 {
			return nil
		}
		args := []any{jobID, src, size, store.Micros(fresh[len(fresh)-1].At), store.Micros(time.Now())}
		if have == 0 {
			err = store.Guarded(tx.ExecContext(ctx, insertStream, args...))
		} else {
			err = store.Guarded(tx.ExecContext(ctx, updateStream, append(args, have)...))
		}
		if err != nil {
			return err
		}
		for part := range slices.Chunk(fresh, rowsPerInsert) {
			if err := insertEvents(ctx, tx, jobID, src, part); err != nil {
				return err
			}
		}
		if g != nil {
			return g.after(ctx, tx, have, size)
		}
		return nil
	})
	return size, gap, err
}

func (d *DB) stream(ctx context.Context, q store.Querier, jobID string, src Source) (size, last int64, err error) {
	err = q.QueryRowContext(ctx, selectStream, jobID, src).Scan(&size, &last)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, 0, nil
	}
	return size, last, err
}

// continueStream returns what chunks add to a stream of size bytes whose last event was at
// last, in Unix microseconds, and the size with it. gap is a *GapError when a chunk begins
// behind that.
func continueStream(size, last int64, chunks []Chunk) (fresh []Event, end int64, gap error) {
	for _, c := range chunks {
		if c.Offset > size {
			return fresh, size, &GapError{Have: size, Got: c.Offset}
		}
		data := c.Data[min(size-c.Offset, int64(len(c.Data))):]
		if len(data) == 0 {
			continue
		}
		last = max(store.Micros(c.At), last+1)
		fresh = append(fresh, Event{Offset: size, At: store.Time(last), Data: data})
		size += int64(len(data))
	}
	return fresh, size, nil
}

// rowsPerInsert bounds the parameters of a statement.
const rowsPerInsert = 100

func insertEvents(ctx context.Context, tx *store.Tx, jobID string, src Source, events []Event) error {
	rows := make([]string, len(events))
	args := []any{jobID, src}
	for i, e := range events {
		n := len(args)
		rows[i] = fmt.Sprintf("($1, $2, $%d, $%d, $%d)", n+1, n+2, n+3)
		args = append(args, e.Offset, store.Micros(e.At), e.Data)
	}
	_, err := tx.ExecContext(ctx, insertChunk+strings.Join(rows, ", "), args...)
	return err
}

// Size implements [Store].
func (d *DB) Size(ctx context.Context, jobID string, src Source) (int64, error) {
	if err := checkStream(jobID, src); err != nil {
		return 0, err
	}
	size, _, err := d.stream(ctx, d.db.Read(), jobID, src)
	if err != nil {
		return 0, fmt.Errorf("size of %s log of job %s: %w", src, jobID, err)
	}
	return size, nil
}

// Poll implements [Store].
func (d *DB) Poll(ctx context.Context, q Query) (Page, error) {
	if err := checkStream(q.JobID, q.Source); err != nil {
		return Page{}, err
	}
	statement, args, err := pageQuery(q)
	if err != nil {
		return Page{}, err
	}
	page := Page{Cursor: "0"}
	if q.Token != "" {
		page.Cursor = q.Token
	}
	if q.Limit <= 0 {
		return page, nil
	}
	rows, err := d.db.Read().QueryContext(ctx, statement, args...)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error { return page.add(rows, q) })
	if err != nil {
		return Page{}, fmt.Errorf("read %s log of job %s: %w", q.Source, q.JobID, err)
	}
	return page, nil
}

// At implements [Store].
func (d *DB) At(ctx context.Context, jobID string, src Source, offset int64) (string, error) {
	n, err := d.start(ctx, jobID, src, offset)
	return strconv.FormatInt(n, 10), err
}

// start is where the chunk begins that has a byte, or the last one before it.
func (d *DB) start(ctx context.Context, jobID string, src Source, offset int64) (n int64, err error) {
	if err := checkStream(jobID, src); err != nil {
		return 0, err
	}
	if err := d.db.Read().QueryRowContext(ctx, selectStart, jobID, src, offset).Scan(&n); err != nil {
		return 0, fmt.Errorf("read %s log of job %s: %w", src, jobID, err)
	}
	return n, nil
}

// pageQuery selects the page and one row more, which tells whether there is a next one.
func pageQuery(q Query) (statement string, args []any, err error) {
	const never = int64(1)<<62 - 1
	compare, order, token := ">=", "ASC", int64(0)
	if q.Descending {
		compare, order, token = "<", "DESC", never
	}
	if q.Token != "" {
		if token, err = position(q.Token); err != nil {
			return "", nil, err
		}
	}
	start, end := int64(-1)<<62, never
	if !q.Start.IsZero() {
		start = q.Start.UnixMicro()
	}
	if !q.End.IsZero() {
		end = q.End.UnixMicro()
		if !q.Descending {
			end-- // exclusive
		}
	}
	limit := min(max(q.Limit, 0), MaxEvents) + 1
	return fmt.Sprintf(selectPage, compare, order), []any{q.JobID, q.Source, token, start, end, limit, MaxBytes}, nil
}

// add takes one row of a page's query.
func (p *Page) add(rows *sql.Rows, q Query) error {
	var e Event
	var at int64
	if err := rows.Scan(&e.Offset, &at, &e.Data); err != nil {
		return err
	}
	full := len(p.Events) == min(q.Limit, MaxEvents) || e.Data == nil
	switch {
	case p.Next != "": // behind the page
	case full && q.Descending:
		p.Next = strconv.FormatInt(p.Events[len(p.Events)-1].Offset, 10)
	case full:
		p.Next = strconv.FormatInt(e.Offset, 10)
	default:
		e.At = store.Time(at)
		p.Events = append(p.Events, e)
		if !q.Descending {
			p.Cursor = strconv.FormatInt(e.Offset+int64(len(e.Data)), 10)
		}
	}
	return nil
}

// Delete implements [Store].
func (d *DB) Delete(ctx context.Context, jobID string) error {
	if !validID(jobID) {
		return fmt.Errorf("%w: %q", ErrJobID, jobID)
	}
	for more := true; more; {
		err := d.db.Write(ctx, func(tx *store.Tx) (err error) {
			more, err = deleteSome(ctx, tx, jobID)
			return err
		})
		if err != nil {
			return fmt.Errorf("delete logs of job %s: %w", jobID, err)
		}
	}
	return nil
}

// deleteSome deletes the beginning of a job's logs, with the last of them all that is known of them; more says that
// there may be more.
func deleteSome(ctx context.Context, tx *store.Tx, jobID string) (more bool, err error) {
	res, err := tx.ExecContext(ctx, deleteChunks, jobID, deleteBatch)
	if err != nil {
		return false, err
	}
	if n, err := res.RowsAffected(); err != nil || n >= deleteBatch {
		return true, err
	}
	for _, statement := range []string{deleteBatches, deleteShipments, deleteStreams} {
		if _, err := tx.ExecContext(ctx, statement, jobID); err != nil {
			return false, err
		}
	}
	return false, nil
}

// Expire implements [Store].
func (d *DB) Expire(ctx context.Context, t time.Time) (int, error) {
	return d.expireOld(ctx, t, func(id string) (bool, error) { return d.expire(ctx, id, t) })
}

// expireOld removes all logs that were last written to before t, in the way that it is told.
func (d *DB) expireOld(ctx context.Context, t time.Time, remove func(id string) (bool, error)) (int, error) {
	n := 0
	for {
		old, err := d.oldJobs(ctx, t)
		if err != nil || len(old) == 0 {
			return n, err
		}
		removed, err := removeAll(ctx, old, remove)
		if n += removed; err != nil {
			return n, err
		}
	}
}

func (d *DB) oldJobs(ctx context.Context, t time.Time) ([]string, error) {
	var ids []string
	rows, err := d.db.Read().QueryContext(ctx, selectOldJobs, store.Micros(t))
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var id string
		err := rows.Scan(&id)
		ids = append(ids, id)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list old logs: %w", err)
	}
	return ids, nil
}

// expire removes the logs of a job unless they were written to meanwhile, or another server
// has removed them.
func (d *DB) expire(ctx context.Context, jobID string, t time.Time) (expired bool, err error) {
	for more := true; more; {
		err := d.db.Write(ctx, func(tx *store.Tx) error {
			var written int64
			if err := tx.QueryRowContext(ctx, selectWritten, jobID).Scan(&written); err != nil {
				return err
			}
			more = false
			if expired = written > 0 && written < store.Micros(t); !expired {
				return nil
			}
			more, err = deleteSome(ctx, tx, jobID)
			return err
		})
		if err != nil {
			return false, fmt.Errorf("expire logs of job %s: %w", jobID, err)
		}
	}
	return expired, nil
}
