-- +goose Up
-- The queue of a project: its waiting jobs.
CREATE INDEX job_waiting ON job (project_id) WHERE status = 'submitted';
CREATE INDEX instance_project_live ON instance (project_id) WHERE NOT deleted;

-- +goose Down
