package run

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"dstack/internal/api"
)

// waiting tells of runs where they stand in their queue and what for, nil for those that are
// in none. It costs a query for each project with such runs, at most one a second where the
// positions may be as old as that.
func (s *Service) waiting(ctx context.Context, runs []Run, old bool) ([]*api.RunWaiting, error) {
	positions := map[string]map[string]int{} // by project and run
	out := make([]*api.RunWaiting, len(runs))
	for i, r := range runs {
		w := r.Data.Waiting
		if w == nil || r.Status.Finished() || r.Status == api.RunTerminating {
			continue
		}
		if positions[r.ProjectID] == nil {
			look := s.positions
			if old {
				look = func(ctx context.Context, id string) (map[string]int, error) { return s.places.of(ctx, id, s.positions) }
			}
			p, err := look(ctx, r.ProjectID)
			if err != nil {
				return nil, err
			}
			positions[r.ProjectID] = p
		}
		if n := positions[r.ProjectID][r.ID]; n > 0 {
			out[i] = &api.RunWaiting{Position: n, Reason: w.Why, Since: api.At(w.Since)}
		}
	}
	return out, nil
}

// positionCache remembers positions for a moment: whoever looks at a list of runs looks at
// many of one queue, again and again.
type positionCache struct {
	mu   sync.Mutex
	byID map[string]*positionsAt
}

type positionsAt struct {
	asking    int           // how many of those who ask are not done with it
	reading   chan struct{} // holds a token while one of them looks at what follows, or reads it for all
	at        time.Time
	positions map[string]int
}

// positionsFor is how old positions may be.
const positionsFor = time.Second

func (c *positionCache) of(ctx context.Context, projectID string, read func(context.Context, string) (map[string]int, error)) (map[string]int, error) {
	p := c.enter(projectID)
	defer c.leave(p)
	select {
	case p.reading <- struct{}{}:
		defer func() { <-p.reading }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if time.Since(p.at) < positionsFor {
		return p.positions, nil
	}
	positions, err := read(ctx, projectID)
	if err != nil {
		return nil, err
	}
	p.at, p.positions = time.Now(), positions // however long that took: those who waited take them
	return positions, nil
}

// enter returns what is remembered of a project's queue, for one more who asks, and forgets old queues that nobody asks
// for.
func (c *positionCache) enter(projectID string) *positionsAt {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, p := range c.byID {
		if id != projectID && p.asking == 0 && time.Since(p.at) >= positionsFor {
			delete(c.byID, id)
		}
	}
	p := c.byID[projectID]
	if p == nil {
		if c.byID == nil {
			c.byID = map[string]*positionsAt{}
		}
		p = &positionsAt{reading: make(chan struct{}, 1)}
		c.byID[projectID] = p
	}
	p.asking++
	return p
}

func (c *positionCache) leave(p *positionsAt) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p.asking--
}

// positions are the places of runs in a project's queue, from 1. They are read as one text,
// which takes a third of so many rows.
func (s *Service) positions(ctx context.Context, projectID string) (map[string]int, error) {
	var text string
	if err := s.DB.Read().QueryRowContext(ctx, queuedRuns, projectID).Scan(&text); err != nil {
		return nil, fmt.Errorf("list the queue: %w", err)
	}
	ids := strings.Fields(text)
	at := make(map[string]int, len(ids))
	for n, id := range ids {
		at[id] = n + 1
	}
	return at, nil
}
