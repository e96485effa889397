-- +goose Up
-- What an exporter of DCGM said last of the GPUs of jobs, in Prometheus' text format.
CREATE TABLE job_dcgm (
    job_id TEXT PRIMARY KEY,
    at     BIGINT NOT NULL,
    packed BYTEA NOT NULL
);
CREATE INDEX job_dcgm_at ON job_dcgm (at);

-- +goose Down
DROP TABLE job_dcgm;
