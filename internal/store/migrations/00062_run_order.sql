-- +goose Up
-- Lists over all projects read all runs in the order of these indexes.
DROP INDEX run_submitted;
CREATE INDEX run_order ON run (submitted_at DESC, id);
CREATE INDEX run_active_order ON run (submitted_at DESC, id) WHERE status NOT IN ('terminated', 'failed', 'done');

-- +goose Down
