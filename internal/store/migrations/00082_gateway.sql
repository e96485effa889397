-- +goose Up
CREATE TABLE gateway (
    id         TEXT PRIMARY KEY,
    project_id TEXT   NOT NULL,
    name       TEXT   NOT NULL,
    status     TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    version    BIGINT NOT NULL DEFAULT 1,
    data       TEXT   NOT NULL,
    CONSTRAINT gateway_status CHECK (status IN ('submitted', 'provisioning', 'running', 'failed'))
);
CREATE UNIQUE INDEX gateway_project_name ON gateway (project_id, name);

-- The gateway of services that name none: one of the project's, or an imported one.
CREATE TABLE gateway_default (
    project_id TEXT PRIMARY KEY,
    gateway_id TEXT NOT NULL
);
CREATE INDEX gateway_default_gateway ON gateway_default (gateway_id);

-- +goose Down
