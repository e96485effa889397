// Package metrics keeps the recent samples of jobs, what DCGM measures of their GPUs, and the health
// of instances. Samples come every ten seconds per job; all of it expires.
package metrics

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"dstack/internal/agentapi"
	"dstack/internal/store"
)

// How long samples are kept when nothing else is configured.
const (
	keepRunning  = time.Hour
	keepFinished = 7 * 24 * time.Hour
	keepHealth   = 7 * 24 * time.Hour
)

// expireEvery is the time between two removals of what is too old.
const expireEvery = 10 * time.Minute

// sampleEvery is the least time between two samples of a job that are kept. Agents send one each 10 s; one that
// sends more fills no database.
const sampleEvery = 5 * time.Second

// Point is one sample of a job.
type Point struct {
	JobID string
	At    time.Time
	agentapi.Metrics
}

// Config is what New needs; the times are optional.
type Config struct {
	DB  *store.DB
	Log *slog.Logger
	// KeepRunning is for samples of jobs that still send: the oldest go as new ones come. 0: an hour.
	KeepRunning time.Duration
	// KeepFinished is for the last samples of jobs that ended. 0: a week.
	KeepFinished time.Duration
	// KeepHealth is for checks of the health of instances, HealthEvery the least time between two
	// of an instance. 0: a week, a minute.
	KeepHealth, HealthEvery time.Duration
}

// Store keeps samples. It is safe for concurrent use.
type Store struct{ Config }

// New returns a Store.
func New(c Config) (*Store, error) {
	if c.DB == nil || c.Log == nil {
		return nil, errors.New("metrics: DB and Log are required")
	}
	c.KeepRunning = cmp.Or(c.KeepRunning, keepRunning)
	c.KeepFinished = cmp.Or(c.KeepFinished, keepFinished)
	c.KeepHealth = cmp.Or(c.KeepHealth, keepHealth)
	c.HealthEvery = cmp.Or(c.HealthEvery, HealthEvery)
	return &Store{c}, nil
}

// Add stores points in one transaction. Those that are there already are skipped, and those a moment from another
// of their job.
func (s *Store) Add(ctx context.Context, points ...Point) error {
	if len(points) == 0 {
		return nil
	}
	err := s.DB.Write(ctx, func(tx *store.Tx) error {
		for _, p := range points {
			var near int64
			err := tx.QueryRowContext(ctx, nearPoint, p.JobID, store.Micros(p.At.Add(-sampleEvery)), store.Micros(p.At.Add(sampleEvery))).Scan(&near)
			if err == nil {
				continue
			}
			if !errors.Is(err, sql.ErrNoRows) {
				return err
			}
			if p.GPUs == nil {
				p.GPUs = []agentapi.GPUMetrics{}
			}
			_, err = tx.ExecContext(ctx, insertPoint, p.JobID, store.Micros(p.At), p.CPUMicros, p.MemoryBytes, p.WorkingSetBytes, store.JSON(&p.GPUs))
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, prunePoints, p.JobID, store.Micros(p.At.Add(-s.KeepRunning))); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("store metrics: %w", err)
	}
	return nil
}

// Range bounds a query by time, both ends inclusive, zero for none.
type Range struct{ From, To time.Time }

func (r Range) micros() (from, to int64) {
	from, to = store.Micros(r.From), store.Micros(r.To)
	if r.To.IsZero() {
		to = 1<<63 - 1
	}
	return from, to
}

// Points returns the newest limit points of a job in the range, newest first.
func (s *Store) Points(ctx context.Context, q store.Querier, jobID string, r Range, limit int) ([]Point, error) {
	var all []Point
	err := s.back(ctx, q, jobID, r, limit, func(p Point) error {
		all = append(all, p)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// back has see look at the newest limit points of a job in the range, newest first, until that fails.
func (s *Store) back(ctx context.Context, q store.Querier, jobID string, r Range, limit int, see func(Point) error) error {
	from, to := r.micros()
	rows, err := q.QueryContext(ctx, selectPoints, jobID, from, to, limit)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		p := Point{JobID: jobID}
		var at int64
		if err := store.DespiteDamage(store.Scan(rows, &at, &p.CPUMicros, &p.MemoryBytes, &p.WorkingSetBytes, store.JSON(&p.GPUs))); err != nil {
			return err
		}
		p.At = store.Time(at)
		return see(p)
	})
	if err != nil {
		return fmt.Errorf("read metrics of job %s: %w", jobID, err)
	}
	return nil
}

// Latest returns the newest point of every job that sent one within KeepRunning.
func (s *Store) Latest(ctx context.Context, q store.Querier) (map[string]Point, error) {
	all := map[string]Point{}
	rows, err := q.QueryContext(ctx, latestPoints, store.Micros(time.Now().Add(-s.KeepRunning)))
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var p Point
		var at int64
		if err := store.DespiteDamage(store.Scan(rows, &p.JobID, &at, &p.CPUMicros, &p.MemoryBytes, &p.WorkingSetBytes, store.JSON(&p.GPUs))); err != nil {
			return err
		}
		p.At = store.Time(at)
		all[p.JobID] = p
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the latest metrics: %w", err)
	}
	return all, nil
}

// Forget removes the points of a job.
func (s *Store) Forget(ctx context.Context, tx *store.Tx, jobID string) error {
	_, err := tx.ExecContext(ctx, deletePoints, jobID)
	return err
}

// Run removes what is too old until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	for {
		if err := s.expire(ctx, time.Now()); err != nil && ctx.Err() == nil {
			s.Log.Warn("old metrics not removed", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// expireBatch is how many rows are removed in one transaction: others write in between, and no statement takes
// longer than a database may take to answer.
const expireBatch = 1000

func (s *Store) expire(ctx context.Context, now time.Time) error {
	for _, e := range []struct {
		statement string
		keep      time.Duration
	}{{expirePoints, s.KeepFinished}, {expireHealth, s.KeepHealth}, {expireTexts, keepText}} {
		for n := int64(expireBatch); n >= expireBatch; {
			err := s.DB.Write(ctx, func(tx *store.Tx) (err error) {
				n, err = expireSome(ctx, tx, e.statement, now.Add(-e.keep))
				return err
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// expireSome removes the oldest and says how many.
func expireSome(ctx context.Context, tx *store.Tx, statement string, before time.Time) (int64, error) {
	res, err := tx.ExecContext(ctx, statement, store.Micros(before), expireBatch)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}
