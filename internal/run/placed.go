package run

import (
	"context"
	"database/sql"
	"fmt"

	"dstack/internal/api"
	"dstack/internal/metrics"
	"dstack/internal/store"
)

// Placed is a live job on an instance, with the names of what it belongs to.
type Placed struct {
	Job                      Job
	Project, User, Run, Type string
	RunID                    string
	Resources                api.Resources
	Latest                   *metrics.Point // nil without samples
}

// EachPlaced visits the live jobs that have an instance.
func (s *Service) EachPlaced(ctx context.Context, visit func(Placed) error) error {
	latest, err := s.Metrics.Latest(ctx, s.DB.Read())
	if err != nil {
		return err
	}
	rows, err := s.DB.Read().QueryContext(ctx, `
SELECT p.name, a.name, r.name, r.id, r.data, j.id FROM job j
JOIN run r ON r.id = j.run_id JOIN project p ON p.id = j.project_id JOIN account a ON a.id = r.user_id
WHERE j.status IN ('provisioning', 'pulling', 'running', 'terminating') AND j.instance_id <> '' ORDER BY j.id`)
	var list []Placed
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		var p Placed
		var data Data
		// A run that somebody's edit has spoilt has no type, and keeps nobody else from being seen.
		if err := store.DespiteDamage(store.Scan(rows, &p.Project, &p.User, &p.Run, &p.RunID, store.JSON(&data), &p.Job.ID)); err != nil {
			return err
		}
		p.Type = data.Spec.Configuration.Type()
		list = append(list, p)
		return nil
	})
	if err != nil {
		return fmt.Errorf("list placed jobs: %w", err)
	}
	jobs, err := s.livePlaced(ctx)
	if err != nil {
		return err
	}
	for _, p := range list {
		j, ok := jobs[p.Job.ID]
		if !ok || j.Data.Provisioning == nil {
			continue
		}
		p.Job = j
		if r := jobOffer(j); r != nil {
			p.Resources = *r
		}
		if m, ok := latest[j.ID]; ok {
			p.Latest = &m
		}
		if err := visit(p); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) livePlaced(ctx context.Context) (map[string]Job, error) {
	rows, err := s.DB.Read().QueryContext(ctx, `SELECT `+jobColumns+` FROM job WHERE status IN ('provisioning', 'pulling', 'running', 'terminating') AND instance_id <> ''`)
	jobs := map[string]Job{}
	err = store.EachRow(rows, err, func(rows *sql.Rows) error {
		j, err := scanJob(rows)
		jobs[j.ID] = j
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list placed jobs: %w", err)
	}
	return jobs, nil
}
