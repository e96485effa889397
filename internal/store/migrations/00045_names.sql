-- +goose Up
-- Names of users and projects are unique without regard to case.
DROP INDEX account_name;
CREATE UNIQUE INDEX account_name ON account (lower(name)) WHERE NOT deleted;
DROP INDEX project_name;
CREATE UNIQUE INDEX project_name ON project (lower(name)) WHERE NOT deleted;

ALTER TABLE secret ADD COLUMN created_at BIGINT NOT NULL DEFAULT 0;
