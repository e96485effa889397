-- +goose Up
-- Since when a replica is there, 0 for those of the version before, which do not say.
ALTER TABLE replica ADD COLUMN joined_at BIGINT NOT NULL DEFAULT 0;

-- +goose Down
ALTER TABLE replica DROP COLUMN joined_at;
