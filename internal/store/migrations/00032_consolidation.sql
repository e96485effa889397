-- +goose Up
-- How often in a row, and when last, a fleet was brought to its size.
ALTER TABLE fleet ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE fleet ADD COLUMN consolidated_at BIGINT NOT NULL DEFAULT 0;

-- +goose Down
