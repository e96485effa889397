package logstore

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"dstack/internal/engine"
	"dstack/internal/store"
)

const (
	selectShipment = `
SELECT name, incarnation, size, sent, dropped, waiting_since, shipping
FROM   log_shipment WHERE job_id = $1 AND source = $2`
	selectWaiting  = `SELECT CAST(coalesce(sum(size - sent), 0) AS BIGINT) FROM log_shipment WHERE shipping`
	insertShipment = `
INSERT INTO log_shipment (job_id, source, shard, name, incarnation, size, sent, dropped, waiting_since, shipping)
VALUES ($1, $2, $3, $4, $5, $6, 0, 0, $7, TRUE)`
	growShipment = `
UPDATE log_shipment
SET    size = $3, waiting_since = CASE WHEN sent = $4 THEN $5 ELSE waiting_since END, shipping = TRUE
WHERE  job_id = $1 AND source = $2 RETURNING sent`

	// selectBatch is the batch that has an offset, or the first behind it within the times.
	selectBatch = `
SELECT start, size, service, layout FROM log_batch
WHERE  job_id = $1 AND source = $2 AND start >= (
         SELECT coalesce(max(start), 0) FROM log_batch WHERE job_id = $1 AND source = $2 AND start <= $3)
       AND start + size > $3 AND start < $4 AND last_at > $5 AND first_at <= $6
ORDER BY start LIMIT 1`
	// selectBatchBefore is the last batch that begins before an offset.
	selectBatchBefore = `
SELECT start, size, service, layout FROM log_batch
WHERE  job_id = $1 AND source = $2 AND start < $3 AND last_at > $4 AND first_at <= $5
ORDER BY start DESC LIMIT 1`
	deleteBatches   = `DELETE FROM log_batch WHERE job_id = $1`
	deleteShipments = `DELETE FROM log_shipment WHERE job_id = $1`
)

// How much may wait for a service, in bytes; what one delivery of a host brings comes on top.
// Above that output is refused and stays on the hosts.
const (
	maxStreamWaiting = 16 << 20
	maxWaiting       = 1 << 30
	// waitingFresh is how long the sum of all is taken for true.
	waitingFresh = 2 * time.Second
)

// BusyError says that a log service is behind: nothing was stored, and the sender is to keep it and
// try again later.
type BusyError struct{ Service string }

func (e *BusyError) Error() string {
	return e.Service + " does not take logs as fast as they come: they stay on the hosts for now"
}

// Remote is a [Store] for a log service. The database has the streams' sizes, so that bytes are
// exact whatever the service does, and holds what the service has not taken, so that a slow one
// delays nobody: see ship.go. What it has taken is read from it after a while. How much may wait
// is bounded; see [BusyError].
//
// Streams that were in the database before, for lack of a service, stay there.
type Remote struct {
	RemoteConfig
	db     *DB
	cache  batchCache
	mu     sync.Mutex
	sum    int64 // bytes that wait in all streams, as of sumAt
	sumAt  time.Time
	limits Limits
}

// RemoteConfig is what NewRemote needs; fields are required unless marked optional.
type RemoteConfig struct {
	DB   *store.DB
	Sink Sink
	// Place says which run of which project a job belongs to: streams are named by it.
	Place func(ctx context.Context, q store.Querier, jobID string) (project, run string, err error)
	// Wake asks for a pass of [Remote.Kind] over a job.
	Wake func(jobID string)
	Log  *slog.Logger
	// Keep is how long the database keeps what the service has; optional: 1 min. Services take a
	// while until they show what they took.
	Keep time.Duration
	// Settle is how long after an attempt of unknown outcome the service shows what it took;
	// optional: 5 s.
	Settle time.Duration
	// Timeout bounds one call of the service; optional: 30 s.
	Timeout time.Duration
	// Linger is how long a small batch waits for more; optional: the service's.
	Linger time.Duration
}

// NewRemote checks c and returns a store. Somebody has to run its Kind.
func NewRemote(c RemoteConfig) (*Remote, error) {
	if c.DB == nil || c.Sink == nil || c.Place == nil || c.Wake == nil || c.Log == nil {
		return nil, errors.New("logstore: DB, Sink, Place, Wake and Log are required")
	}
	l := c.Sink.Limits()
	if l.Records < 1 || l.BatchBytes < 1 || l.RecordBytes < 1 || l.Growth < 1 || l.Precision < time.Microsecond {
		return nil, fmt.Errorf("logstore: the limits of %s are not complete", c.Sink.Name())
	}
	c.Keep = cmp.Or(c.Keep, time.Minute)
	c.Settle = cmp.Or(c.Settle, 5*time.Second)
	c.Timeout = cmp.Or(c.Timeout, 30*time.Second)
	c.Linger = cmp.Or(c.Linger, l.Linger)
	return &Remote{RemoteConfig: c, db: NewDB(c.DB), limits: l}, nil
}

// shipment is how far a stream is at the service.
type shipment struct {
	Stream
	size, sent, dropped int64
	waitingSince        time.Time
	shipping            bool
}

// known says whether the stream is, or will be, at the service.
func (s shipment) known() bool { return s.ID != "" }

func loadShipment(ctx context.Context, q store.Querier, jobID string, src Source) (shipment, error) {
	s := shipment{Stream: Stream{JobID: jobID, Source: src}}
	var name string
	var since int64
	err := q.QueryRowContext(ctx, selectShipment, jobID, src).
		Scan(&name, &s.ID, &s.size, &s.sent, &s.dropped, &since, &s.shipping)
	if errors.Is(err, sql.ErrNoRows) {
		return s, nil
	}
	s.Project, s.Run, _ = strings.Cut(name, "/")
	s.waitingSince = store.Time(since)
	return s, err
}

// Append implements [Store]. It returns a *BusyError when too much waits for the service.
func (r *Remote) Append(ctx context.Context, jobID string, src Source, chunks ...Chunk) (int64, error) {
	if err := r.room(ctx); err != nil {
		return 0, err
	}
	return r.db.grow(ctx, jobID, src, chunks, &growing{r, jobID, src})
}

// room refuses when too much of all streams waits.
func (r *Remote) room(ctx context.Context) error {
	r.mu.Lock()
	sum, fresh := r.sum, time.Since(r.sumAt) < waitingFresh
	r.mu.Unlock()
	if !fresh {
		if err := r.DB.Read().QueryRowContext(ctx, selectWaiting).Scan(&sum); err != nil {
			return fmt.Errorf("look how much of the logs waits: %w", err)
		}
		r.mu.Lock()
		r.sum, r.sumAt = sum, time.Now()
		r.mu.Unlock()
	}
	if sum >= maxWaiting {
		return &BusyError{r.Sink.Name()}
	}
	return nil
}

// growing is what Remote adds to the Append of a stream.
type growing struct {
	*Remote
	jobID string
	src   Source
}

func (g *growing) before(ctx context.Context, tx *store.Tx) error {
	s, err := loadShipment(ctx, tx, g.jobID, g.src)
	if err == nil && s.size-s.sent >= maxStreamWaiting {
		err = &BusyError{g.Sink.Name()}
	}
	return err
}

func (g *growing) after(ctx context.Context, tx *store.Tx, from, to int64) error {
	now := store.Micros(time.Now())
	if from == 0 {
		project, run, err := g.Place(ctx, tx, g.jobID)
		if err != nil {
			return fmt.Errorf("look whose the log is: %w", err)
		}
		tx.OnCommit(func() { g.Wake(g.jobID) })
		_, err = tx.ExecContext(ctx, insertShipment, g.jobID, g.src, engine.Shard(g.jobID), project+"/"+run, uuid.NewString(), to, now)
		return err
	}
	var sent int64
	err := tx.QueryRowContext(ctx, growShipment, g.jobID, g.src, to, from, now).Scan(&sent)
	if errors.Is(err, sql.ErrNoRows) {
		return nil // it stays in the database
	}
	enough := int64(g.limits.BatchBytes / g.limits.Growth)
	if sent == from || from-sent < enough && to-sent >= enough {
		tx.OnCommit(func() { g.Wake(g.jobID) })
	}
	return err
}

// Size implements [Store].
func (r *Remote) Size(ctx context.Context, jobID string, src Source) (int64, error) {
	return r.db.Size(ctx, jobID, src)
}

// Poll implements [Store]. Tokens are byte offsets. It returns a *ReadError when the service does
// not answer; what the service has no more, or cannot be asked for, is left out.
func (r *Remote) Poll(ctx context.Context, q Query) (Page, error) {
	if err := checkStream(q.JobID, q.Source); err != nil {
		return Page{}, err
	}
	s, err := loadShipment(ctx, r.DB.Read(), q.JobID, q.Source)
	for err == nil && s.known() {
		page, failed := r.poll(ctx, s, q)
		if failed != nil {
			return Page{}, failed
		}
		dropped := s.dropped
		if s, err = loadShipment(ctx, r.DB.Read(), q.JobID, q.Source); err == nil && s.dropped == dropped {
			return page, nil // else some of it may have left the database before it was read
		}
	}
	if err != nil {
		return Page{}, fmt.Errorf("read %s log of job %s: %w", q.Source, q.JobID, err)
	}
	return r.db.Poll(ctx, q)
}

// At implements [Store].
func (r *Remote) At(ctx context.Context, jobID string, src Source, offset int64) (string, error) {
	if err := checkStream(jobID, src); err != nil {
		return "", err
	}
	s, err := loadShipment(ctx, r.DB.Read(), jobID, src)
	if err != nil {
		return "", fmt.Errorf("read %s log of job %s: %w", src, jobID, err)
	}
	if !s.known() || offset >= s.dropped {
		n, err := r.db.start(ctx, jobID, src, offset)
		return strconv.FormatInt(max(n, s.dropped), 10), err
	}
	b, _, err := r.nextBatch(ctx, s, &pager{at: offset})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return "", fmt.Errorf("read %s log of job %s: %w", src, jobID, err)
	}
	at := offset // of what is left out
	for _, c := range b.chunks {
		if c.Offset <= offset {
			at = c.Offset
		}
	}
	return strconv.FormatInt(at, 10), nil
}

// poll is Poll of a stream that is, or will be, at the service.
func (r *Remote) poll(ctx context.Context, s shipment, q Query) (page Page, err error) {
	p := pager{query: q, page: Page{Cursor: "0"}}
	if l, ok := r.Sink.(Linker); ok {
		p.page.URL = l.URL(s.Stream)
	}
	if q.Token != "" {
		if p.at, err = position(q.Token); err != nil {
			return Page{}, err
		}
		p.page.Cursor = q.Token
	} else if q.Descending {
		p.at = s.size
	}
	if q.Limit <= 0 {
		return p.page, nil
	}
	parts := []func(context.Context, shipment, *pager) error{r.pollService, r.pollDatabase}
	if q.Descending {
		parts[0], parts[1] = parts[1], parts[0]
	}
	for _, part := range parts {
		if err := part(ctx, s, &p); err != nil {
			return Page{}, err
		}
		if p.full {
			break
		}
	}
	return p.page, nil
}

// pollDatabase adds what the database holds of a stream.
func (r *Remote) pollDatabase(ctx context.Context, s shipment, p *pager) error {
	q := p.query
	q.Token = strconv.FormatInt(p.at, 10)
	if !q.Descending {
		q.Token = strconv.FormatInt(max(p.at, s.dropped), 10)
	}
	page, err := r.db.Poll(ctx, q)
	if err != nil {
		return err
	}
	for _, e := range page.Events {
		if e.Offset >= s.dropped && !p.add(e) { // what was dropped meanwhile comes from the service
			return nil
		}
	}
	if page.Next != "" { // which was longer than ours can be
		p.end(0)
		p.page.Next = page.Next
	}
	return nil
}

// pollService adds what the service has of a stream.
func (r *Remote) pollService(ctx context.Context, s shipment, p *pager) error {
	for {
		b, service, err := r.nextBatch(ctx, s, p)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s log of job %s: %w", s.Source, s.JobID, err)
		}
		var events []Event
		if service == r.Sink.Name() {
			if events, err = r.fetch(ctx, s.Stream, b); err != nil {
				return err
			}
		}
		if !p.addAll(events) {
			return nil
		}
		p.passed(b)
	}
}

// nextBatch is the batch that p is to look at next; store.ErrNotFound: there is none.
func (r *Remote) nextBatch(ctx context.Context, s shipment, p *pager) (b batch, service string, err error) {
	const never = int64(1)<<62 - 1
	from, to := -never, never
	if !p.query.Start.IsZero() {
		from = p.query.Start.UnixMicro()
	}
	if !p.query.End.IsZero() {
		to = p.query.End.UnixMicro()
	}
	statement, args := selectBatch, []any{s.JobID, s.Source, p.at, s.dropped, from, to}
	if p.query.Descending {
		statement, args = selectBatchBefore, []any{s.JobID, s.Source, min(p.at, s.dropped), from, to}
	}
	var start, size int64
	var layout []byte
	if err := r.DB.Read().QueryRowContext(ctx, statement, args...).Scan(&start, &size, &service, &layout); err != nil {
		return batch{}, "", store.One(err)
	}
	b, err = parseLayout(start, layout)
	return b, service, err
}

var errNoAnswer = errors.New("the log service does not answer")

// call does something with the service, within the timeout for that.
func (r *Remote) call(ctx context.Context, fn func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, r.Timeout, errNoAnswer)
	defer cancel()
	err := fn(ctx)
	if err != nil && context.Cause(ctx) == errNoAnswer {
		err = fmt.Errorf("%w within %s: %w", errNoAnswer, r.Timeout, err)
	}
	return err
}

func (r *Remote) read(ctx context.Context, s Stream, want []Record) (got []Record, err error) {
	err = r.call(ctx, func(ctx context.Context) error {
		got, err = r.Sink.Read(ctx, s, want)
		return err
	})
	return got, err
}

// fetch reads a batch from the service.
func (r *Remote) fetch(ctx context.Context, s Stream, b batch) ([]Event, error) {
	key := batchKey{s.ID, b.start}
	if events := r.cache.get(key); events != nil {
		return events, nil
	}
	got, err := r.read(ctx, s, b.records)
	switch known, ok := errors.AsType[*ReadError](err); {
	case errors.Is(err, ErrWriteOnly):
		return nil, nil
	case ok:
		return nil, known
	case err != nil:
		return nil, &ReadError{"Failed to poll logs from log storage", fmt.Errorf("read %s from %s: %w", s.Path(), r.Sink.Name(), err)}
	}
	events, complete := b.restore(got)
	if complete { // else it may be that the service does not show all yet
		r.cache.put(key, events, b.size())
	}
	return events, nil
}

// Delete implements [Store].
func (r *Remote) Delete(ctx context.Context, jobID string) error {
	if !validID(jobID) {
		return fmt.Errorf("%w: %q", ErrJobID, jobID)
	}
	for _, src := range []Source{Job, Runner} {
		s, err := loadShipment(ctx, r.DB.Read(), jobID, src)
		if err == nil && s.known() {
			err = r.call(ctx, func(ctx context.Context) error { return r.Sink.Delete(ctx, s.Stream) })
		}
		if err != nil {
			return fmt.Errorf("delete %s log of job %s: %w", src, jobID, err)
		}
	}
	return r.db.Delete(ctx, jobID)
}

// Expire implements [Store].
func (r *Remote) Expire(ctx context.Context, t time.Time) (int, error) {
	return r.db.expireOld(ctx, t, func(id string) (bool, error) {
		err := r.Delete(ctx, id)
		return err == nil, err
	})
}
