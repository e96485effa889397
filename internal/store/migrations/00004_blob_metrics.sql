-- +goose Up
CREATE TABLE blob (
    sha256     TEXT PRIMARY KEY, -- hex
    size       BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    data       BYTEA NOT NULL
);

-- Samples of running jobs.
CREATE TABLE job_metrics (
    job_id      TEXT NOT NULL,
    at          BIGINT NOT NULL,
    cpu_micros  BIGINT NOT NULL, -- cumulative
    memory      BIGINT NOT NULL, -- bytes
    working_set BIGINT NOT NULL, -- bytes
    gpus        TEXT NOT NULL,   -- JSON
    PRIMARY KEY (job_id, at)
);
CREATE INDEX job_metrics_at ON job_metrics (at);

-- Changes of the health of instances.
CREATE TABLE instance_health (
    instance_id TEXT NOT NULL,
    at          BIGINT NOT NULL,
    status      TEXT NOT NULL,
    message     TEXT NOT NULL,
    response    TEXT NOT NULL, -- JSON of the check, '' for none
    PRIMARY KEY (instance_id, at)
);
CREATE INDEX instance_health_at ON instance_health (at);
