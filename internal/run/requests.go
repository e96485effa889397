package run

import (
	"context"
	"fmt"
	"time"

	"dstack/internal/api"
	"dstack/internal/jobspec"
	"dstack/internal/store"
)

// RequestSlot is how fine requests are counted in time.
const RequestSlot = 5 * time.Second

// requestsKept is the longest window of a scaler.
const requestsKept = 5 * time.Minute

// SlotOf is the slot that a time belongs to.
func SlotOf(t time.Time) int64 { return t.Unix() / int64(RequestSlot/time.Second) }

// Requests are those that came for a service in one slot, through one replica of the server.
type Requests struct {
	RunID string
	Slot  int64
	Count int
}

const addRequests = `
INSERT INTO service_request (run_id, slot, requests) VALUES ($1, $2, $3)
ON CONFLICT (run_id, slot) DO UPDATE SET requests = service_request.requests + excluded.requests`

const dropRequests = `DELETE FROM service_request WHERE slot < $1`

const sumRequests = `SELECT coalesce(sum(requests), 0) FROM service_request WHERE run_id = $1 AND slot > $2`

// CountRequests stores counts and looks at the services, which may need other numbers of
// replicas now.
func (s *Service) CountRequests(ctx context.Context, counts []Requests) error {
	return s.DB.Write(ctx, func(tx *store.Tx) error {
		if _, err := tx.ExecContext(ctx, dropRequests, SlotOf(time.Now().Add(-requestsKept-RequestSlot))); err != nil {
			return fmt.Errorf("drop old counts of requests: %w", err)
		}
		for _, c := range counts {
			if _, err := tx.ExecContext(ctx, addRequests, c.RunID, c.Slot, c.Count); err != nil {
				return fmt.Errorf("count requests: %w", err)
			}
			tx.OnCommit(func() { s.Engine.Wake(Kind, c.RunID) })
		}
		return nil
	})
}

// load is how many requests came for a service lately, over the windows of its scalers.
func (s *Service) load(ctx context.Context, r Run, now time.Time) (Load, error) {
	l := Load{Since: s.started}
	sv := r.Data.Spec.Configuration.Service
	if sv == nil || r.Status.Finished() || r.Status == api.RunTerminating {
		return l, nil
	}
	for _, g := range jobspec.Groups(r.Data.Spec.Configuration) {
		if g.Scaling == nil {
			continue
		}
		w, n := window(g.Scaling), 0
		if err := s.DB.Read().QueryRowContext(ctx, sumRequests, r.ID, SlotOf(now.Add(-w))).Scan(&n); err != nil {
			return l, fmt.Errorf("read how many requests came: %w", err)
		}
		if l.Requests == nil {
			l.Requests = map[time.Duration]int{}
		}
		l.Requests[w] = n
	}
	return l, nil
}
