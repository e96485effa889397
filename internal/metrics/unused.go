package metrics

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"dstack/internal/store"
)

// errEnough ends a look at samples early.
var errEnough = errors.New("seen enough")

// Unused says that for some GPU of a job every sample since a time is below a percentage, and that there
// are samples from then on (lifecycle 16.5). Of a job at work only the latest are read, however
// long ago that time is.
func (s *Store) Unused(ctx context.Context, q store.Querier, jobID string, since time.Time, least int) (bool, error) {
	var first sql.NullInt64
	if err := q.QueryRowContext(ctx, firstPoint, jobID, store.Micros(since)).Scan(&first); err != nil {
		return false, fmt.Errorf("read the first sample of job %s: %w", jobID, err)
	}
	if !first.Valid || store.Time(first.Int64).Sub(since) > time.Minute {
		return false, nil
	}
	var idle []bool // by GPU, nil before the newest sample
	err := s.back(ctx, q, jobID, Range{From: since}, 1<<62, func(p Point) error {
		if idle == nil {
			idle = make([]bool, len(p.GPUs))
			for n := range idle {
				idle[n] = true
			}
		}
		some := false
		for n := range idle {
			idle[n] = idle[n] && n < len(p.GPUs) && p.GPUs[n].UtilPercent < least
			some = some || idle[n]
		}
		if !some {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return false, nil
	}
	return len(idle) > 0 && err == nil, err
}
