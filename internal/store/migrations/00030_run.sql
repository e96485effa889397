-- +goose Up
CREATE TABLE run (
    id           TEXT PRIMARY KEY,
    project_id   TEXT    NOT NULL,
    user_id      TEXT    NOT NULL,
    name         TEXT    NOT NULL,
    status       TEXT    NOT NULL,
    priority     INTEGER NOT NULL DEFAULT 0,
    repo_id      TEXT    NOT NULL DEFAULT '',
    deleted      BOOLEAN NOT NULL DEFAULT FALSE,
    submitted_at BIGINT  NOT NULL,
    shard        INTEGER NOT NULL,
    version      BIGINT  NOT NULL DEFAULT 1,
    data         TEXT    NOT NULL
);
CREATE UNIQUE INDEX run_project_id_name_key ON run (project_id, name) WHERE NOT deleted;
CREATE INDEX run_submitted ON run (submitted_at, id);
CREATE INDEX run_live ON run (shard) WHERE status NOT IN ('terminated', 'failed', 'done');

-- One row per attempt of a job.
CREATE TABLE job (
    id             TEXT PRIMARY KEY,
    run_id         TEXT    NOT NULL,
    project_id     TEXT    NOT NULL,
    replica_num    INTEGER NOT NULL,
    job_num        INTEGER NOT NULL,
    submission_num INTEGER NOT NULL,
    status         TEXT    NOT NULL,
    instance_id    TEXT    NOT NULL DEFAULT '',
    submitted_at   BIGINT  NOT NULL,
    shard          INTEGER NOT NULL,
    version        BIGINT  NOT NULL DEFAULT 1,
    data           TEXT    NOT NULL,
    observed       TEXT    NOT NULL DEFAULT '' -- the task as its host last reported it
);
CREATE UNIQUE INDEX job_submission ON job (run_id, replica_num, job_num, submission_num);
CREATE INDEX job_live ON job (shard) WHERE status NOT IN ('terminated', 'aborted', 'failed', 'done');

-- +goose Down
