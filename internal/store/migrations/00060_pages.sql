-- +goose Up
-- Lists are read a page at a time, newest first, in the order of these indexes.
DROP INDEX instance_project;
CREATE INDEX instance_page ON instance (project_id, created_at DESC, id);
CREATE INDEX run_page ON run (project_id, submitted_at DESC, id);
CREATE INDEX run_active ON run (project_id, submitted_at DESC, id) WHERE status NOT IN ('terminated', 'failed', 'done');

-- +goose Down
