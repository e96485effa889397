package logstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"dstack/internal/engine"
	"dstack/internal/store"
)

// Kind names the objects of the engine that [Remote] ships: jobs with output that the service has
// not taken, or that is in the database still.
const Kind = "log"

const (
	liveShipments = `SELECT DISTINCT job_id FROM log_shipment WHERE shipping AND shard IN`
	selectPending = `
SELECT start, tried_at, tries, layout FROM log_batch WHERE job_id = $1 AND source = $2 AND start = $3 AND sent_at = 0`
	selectLastLayout = `
SELECT start, layout FROM log_batch WHERE job_id = $1 AND source = $2 ORDER BY start DESC LIMIT 1`
	insertBatch = `
INSERT INTO log_batch (job_id, source, start, size, first_at, last_at, service, tried_at, tries, sent_at, layout)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 1, 0, $9)`
	touchBatch = `
UPDATE log_batch SET tried_at = $4, tries = tries + 1, service = $5
WHERE  job_id = $1 AND source = $2 AND start = $3 AND sent_at = 0`
	cancelBatch  = `DELETE FROM log_batch WHERE job_id = $1 AND source = $2 AND start = $3 AND sent_at = 0`
	markBatch    = `UPDATE log_batch SET sent_at = $4 WHERE job_id = $1 AND source = $2 AND start = $3 AND sent_at = 0`
	markShipment = `
UPDATE log_shipment SET sent = $4, waiting_since = $5 WHERE job_id = $1 AND source = $2 AND sent = $3`
	selectDroppable = `
SELECT coalesce(max(start + size), 0) FROM log_batch
WHERE  job_id = $1 AND source = $2 AND start >= $3 AND sent_at > 0 AND sent_at <= $4`
	selectNextDrop = `
SELECT coalesce(min(sent_at), 0) FROM log_batch
WHERE  job_id = $1 AND source = $2 AND start >= $3 AND sent_at > 0`
	dropChunks   = `DELETE FROM log_chunk WHERE job_id = $1 AND source = $2 AND start < $3`
	dropShipment = `
UPDATE log_shipment SET dropped = $3, shipping = size > $3 WHERE job_id = $1 AND source = $2`
)

// batchesPerPass bounds how long a job with much output keeps others waiting.
const batchesPerPass = 16

// Kind is how the engine calls [Remote]: one job at a time, on the replica that owns it. A service
// that hangs holds up this kind only.
func (r *Remote) Kind() engine.Kind {
	return engine.Kind{Name: Kind, Workers: 16, Live: engine.LiveQuery(liveShipments), Reconcile: r.reconcile}
}

// reconcile sends what waits of a job's streams, and drops what the service has had for a while.
func (r *Remote) reconcile(ctx context.Context, it engine.Item) (again time.Time, err error) {
	for _, src := range []Source{Job, Runner} {
		p := passage{Remote: r, fence: it.Fence, jobID: it.ID, src: src}
		err = errors.Join(err, p.run(ctx))
		again = earliest(again, p.again)
	}
	return again, err
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// passage is one pass over a stream.
type passage struct {
	*Remote
	fence engine.Fence
	jobID string
	src   Source
	again time.Time
}

// run sends batches: each is recorded before it is sent, so that after an unknown outcome the same
// one is looked for, and sent again if it is not there.
func (p *passage) run(ctx context.Context) error {
	var failed error
	for range batchesPerPass {
		s, err := loadShipment(ctx, p.DB.Read(), p.jobID, p.src)
		if err != nil {
			return fmt.Errorf("load how far a log is at the service: %w", err)
		}
		if !s.shipping {
			return nil
		}
		sent, err := p.step(ctx, s)
		if err != nil {
			failed = fmt.Errorf("send %s to %s: %w", s.Path(), p.Sink.Name(), err)
		}
		if err != nil || !sent {
			return errors.Join(failed, p.drop(ctx))
		}
	}
	p.again = time.Now() // others wait too
	return errors.Join(failed, p.drop(ctx))
}

// step sends the next batch, unless there is none or it is to wait.
func (p *passage) step(ctx context.Context, s shipment) (sent bool, err error) {
	b, look, err := p.pending(ctx, s)
	switch {
	case err == nil:
		if !p.limits.Once && time.Now().Before(look) {
			p.again = earliest(p.again, look)
			return false, nil
		}
		return p.resend(ctx, s, b)
	case !errors.Is(err, store.ErrNotFound):
		return false, err
	case s.size == s.sent:
		return false, nil
	}
	b, events, err := p.plan(ctx, s)
	if err != nil || len(events) == 0 {
		return false, err
	}
	if err := p.insert(ctx, s, b); err != nil {
		return false, err
	}
	return p.send(ctx, s, b, events)
}

// maxSettle bounds how long an unknown outcome is left alone, however often it was tried.
const maxSettle = 2 * time.Minute

// pending is the batch whose outcome is not known, and when the service should show it, which is
// later after each attempt; store.ErrNotFound: there is none.
func (p *passage) pending(ctx context.Context, s shipment) (b batch, look time.Time, err error) {
	var start, tried int64
	var tries int
	var layout []byte
	err = p.DB.Read().QueryRowContext(ctx, selectPending, p.jobID, p.src, s.sent).Scan(&start, &tried, &tries, &layout)
	if err != nil {
		return batch{}, time.Time{}, store.One(err)
	}
	b, err = parseLayout(start, layout)
	wait := maxSettle
	if n := tries - 1; n < 10 {
		wait = min(p.Settle<<n, maxSettle)
	}
	return b, store.Time(tried).Add(wait), err
}

// plan cuts the next batch. No events: it is small and waits for more.
func (p *passage) plan(ctx context.Context, s shipment) (batch, []Event, error) {
	page, err := p.events(ctx, s, s.sent)
	if err != nil {
		return batch{}, nil, err
	}
	floor, err := p.floor(ctx)
	if err != nil {
		return batch{}, nil, err
	}
	now := time.Now()
	b := cut(now, floor, page.Events, p.limits)
	all := len(b.chunks) == len(page.Events) && page.Next == ""
	if due := s.waitingSince.Add(p.Linger); all && now.Before(due) {
		p.again = earliest(p.again, due)
		return batch{}, nil, nil
	}
	return b, page.Events[:len(b.chunks)], nil
}

// events are what the database has from an offset on, as much as is read at once.
func (p *passage) events(ctx context.Context, s shipment, from int64) (Page, error) {
	page, err := p.db.Poll(ctx, Query{JobID: p.jobID, Source: p.src, Token: fmt.Sprint(from), Limit: MaxEvents})
	if err == nil && (len(page.Events) == 0 || page.Events[0].Offset != from) {
		err = fmt.Errorf("the database lacks what is to be sent, from %d to %d", from, s.size)
	}
	return page, err
}

// floor is the time of the last record so far.
func (p *passage) floor(ctx context.Context) (time.Time, error) {
	var start int64
	var layout []byte
	err := p.DB.Read().QueryRowContext(ctx, selectLastLayout, p.jobID, p.src).Scan(&start, &layout)
	if errors.Is(err, sql.ErrNoRows) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	b, err := parseLayout(start, layout)
	if err != nil {
		return time.Time{}, err
	}
	return b.records[len(b.records)-1].At, nil
}

func (p *passage) insert(ctx context.Context, s shipment, b batch) error {
	first, last := b.chunks[0].At, b.chunks[len(b.chunks)-1].At
	return p.write(ctx, func(tx *store.Tx) error {
		_, err := tx.ExecContext(ctx, insertBatch, p.jobID, p.src, b.start, b.size(), store.Micros(first), store.Micros(last),
			p.Sink.Name(), store.Micros(time.Now()), b.layout())
		return err
	})
}

func (p *passage) write(ctx context.Context, fn func(tx *store.Tx) error) error {
	return p.DB.Write(ctx, func(tx *store.Tx) error {
		if err := p.fence.Check(ctx, tx); err != nil {
			return err
		}
		return fn(tx)
	})
}

// resend goes on with a batch of unknown outcome.
func (p *passage) resend(ctx context.Context, s shipment, b batch) (bool, error) {
	if !p.limits.Once {
		there, err := p.there(ctx, s, b)
		if err != nil {
			return false, fmt.Errorf("look whether it arrived: %w", err)
		}
		if there {
			return true, p.mark(ctx, s, b)
		}
	}
	var events []Event
	for next, end := b.start, b.start+b.size(); next < end; {
		page, err := p.events(ctx, s, next)
		if err != nil {
			return false, err
		}
		for _, e := range page.Events {
			if e.Offset < end {
				events = append(events, e)
				next = e.Offset + int64(len(e.Data))
			}
		}
	}
	err := p.write(ctx, func(tx *store.Tx) error {
		return store.Guarded(tx.ExecContext(ctx, touchBatch, p.jobID, p.src, b.start, store.Micros(time.Now()), p.Sink.Name()))
	})
	if err != nil {
		return false, err
	}
	return p.send(ctx, s, b, events)
}

// there asks the service for a batch. One that cannot be asked has not got it, as far as we know.
func (p *passage) there(ctx context.Context, s shipment, b batch) (bool, error) {
	got, err := p.read(ctx, s.Stream, b.records)
	if err != nil {
		if errors.Is(err, ErrWriteOnly) {
			err = nil
		}
		return false, err
	}
	_, complete := b.restore(got)
	return complete, nil
}

// send writes a batch that is recorded.
func (p *passage) send(ctx context.Context, s shipment, b batch, events []Event) (bool, error) {
	data := make([]byte, 0, b.size())
	for _, e := range events {
		data = append(data, e.Data...)
	}
	records := make([]Record, len(b.records))
	for i, r := range b.records {
		at := r.Offset - b.start
		r.Data = data[at : at+int64(r.Size)]
		records[i] = r
	}
	err := p.call(ctx, func(ctx context.Context) error { return p.Sink.Write(ctx, s.Stream, records) })
	if err != nil {
		if errors.Is(err, ErrNotDone) { // the next attempt may be of a larger batch
			cancelled := p.write(ctx, func(tx *store.Tx) error {
				_, err := tx.ExecContext(ctx, cancelBatch, p.jobID, p.src, b.start)
				return err
			})
			err = errors.Join(err, cancelled)
		}
		return false, err
	}
	return true, p.mark(ctx, s, b)
}

// mark records that the service has a batch.
func (p *passage) mark(ctx context.Context, s shipment, b batch) error {
	now := store.Micros(time.Now())
	return p.write(ctx, func(tx *store.Tx) error {
		if err := store.Guarded(tx.ExecContext(ctx, markBatch, p.jobID, p.src, b.start, now)); err != nil {
			return err
		}
		return store.Guarded(tx.ExecContext(ctx, markShipment, p.jobID, p.src, s.sent, b.start+b.size(), now))
	})
}

// drop removes what the service has had for long enough.
func (p *passage) drop(ctx context.Context) error {
	s, err := loadShipment(ctx, p.DB.Read(), p.jobID, p.src)
	if err != nil {
		return err
	}
	var end, next int64
	cutoff := store.Micros(time.Now().Add(-p.Keep))
	err = p.DB.Read().QueryRowContext(ctx, selectDroppable, p.jobID, p.src, s.dropped, cutoff).Scan(&end)
	if err == nil && end > s.dropped {
		s.dropped = end
		err = p.write(ctx, func(tx *store.Tx) error {
			if _, err := tx.ExecContext(ctx, dropShipment, p.jobID, p.src, end); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, dropChunks, p.jobID, p.src, end)
			return err
		})
	}
	if err == nil {
		err = p.DB.Read().QueryRowContext(ctx, selectNextDrop, p.jobID, p.src, s.dropped).Scan(&next)
	}
	if err != nil {
		return fmt.Errorf("drop what %s has of a log: %w", p.Sink.Name(), err)
	}
	if next > 0 {
		p.again = earliest(p.again, store.Time(next).Add(p.Keep+time.Microsecond))
	}
	return nil
}
