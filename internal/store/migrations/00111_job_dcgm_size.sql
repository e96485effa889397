-- +goose Up
ALTER TABLE job_dcgm ADD COLUMN size BIGINT NOT NULL DEFAULT 0; -- of the text, in bytes

-- +goose Down
ALTER TABLE job_dcgm DROP COLUMN size;
