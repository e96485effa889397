package run

import (
	"context"
	"database/sql"
	"fmt"

	"dstack/internal/api"
	"dstack/internal/export"
	"dstack/internal/fleet"
	"dstack/internal/store"
)

// jobsInFleet are a project's jobs that have a place in a fleet.
const jobsInFleet = `
SELECT ` + jobColumns + ` FROM job
WHERE  project_id = $1 AND status NOT IN ('terminated', 'aborted', 'failed', 'done')
  AND  instance_id IN (SELECT id FROM instance WHERE fleet_id = $2) ORDER BY id`

// usable checks in the transaction that a project may use a fleet: an import may have ended
// since the decision.
func usable(ctx context.Context, tx *store.Tx, f fleet.Fleet, projectID string) error {
	if f.ProjectID == projectID {
		return nil
	}
	ok, err := export.Uses(ctx, tx, projectID, f.ID)
	if err == nil && !ok {
		err = fmt.Errorf("fleet %s is no longer imported: %w", f.Name, store.ErrConflict)
	}
	return err
}

// Revoke ends a project's jobs in a fleet of another that it may not use any more.
func (s *Service) Revoke(ctx context.Context, tx *store.Tx, projectID, fleetID string) error {
	var jobs []Job
	rows, err := tx.QueryContext(ctx, jobsInFleet, projectID, fleetID)
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		j, err := scanJob(rows)
		jobs = append(jobs, j)
		return err
	})
	if err != nil {
		return fmt.Errorf("list the jobs in a fleet of another project: %w", err)
	}
	for _, j := range jobs {
		if err := s.endJob(ctx, tx, j, api.JobInstanceAccessRevoked, "The instance is no longer imported into the job's project"); err != nil {
			return err
		}
	}
	return nil
}
