package run

import (
	"context"
	"database/sql"
	"fmt"

	"dstack/internal/api"
	"dstack/internal/store"
)

// addWaiting tells of the runs that wait in a queue where they stand and what for. It costs
// a query for each project with such runs.
func (s *Service) addWaiting(ctx context.Context, runs []Run, views []api.Run) error {
	positions := map[string]map[string]int{} // by project and run
	for i, r := range runs {
		w := r.Data.Waiting
		if w == nil || r.Status.Finished() || r.Status == api.RunTerminating {
			continue
		}
		if positions[r.ProjectID] == nil {
			p, err := s.positions(ctx, r.ProjectID)
			if err != nil {
				return err
			}
			positions[r.ProjectID] = p
		}
		if n := positions[r.ProjectID][r.ID]; n > 0 {
			views[i].Waiting = &api.RunWaiting{Position: n, Reason: w.Why, Since: api.At(w.Since)}
			views[i].StatusMessage = "retrying" // the word that published clients know for it
		}
	}
	return nil
}

// positions are the places of runs in a project's queue, from 1.
func (s *Service) positions(ctx context.Context, projectID string) (map[string]int, error) {
	rows, err := s.DB.Read().QueryContext(ctx, queuedRuns, projectID)
	at := map[string]int{}
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var id string
		err := rows.Scan(&id)
		at[id] = len(at) + 1
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the queue: %w", err)
	}
	return at, nil
}
