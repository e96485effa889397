-- +goose Up
CREATE TABLE fleet (
    id         TEXT PRIMARY KEY,
    project_id TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    status     TEXT    NOT NULL,
    deleted    BOOLEAN NOT NULL DEFAULT FALSE,
    created_at BIGINT  NOT NULL,
    shard      INTEGER NOT NULL,
    version    BIGINT  NOT NULL DEFAULT 1,
    data       TEXT    NOT NULL
);
CREATE UNIQUE INDEX fleet_project_name ON fleet (project_id, name) WHERE NOT deleted;
CREATE INDEX fleet_created ON fleet (created_at, id);

CREATE TABLE instance (
    id          TEXT PRIMARY KEY,
    project_id  TEXT    NOT NULL,
    fleet_id    TEXT    NOT NULL,
    num         INTEGER NOT NULL,
    name        TEXT    NOT NULL,
    status      TEXT    NOT NULL,
    backend     TEXT    NOT NULL, -- '' until capacity was chosen; 'remote' for SSH hosts
    ssh_host    TEXT    NOT NULL DEFAULT '', -- hostname of an SSH host: one live instance per host
    intent_id   TEXT    NOT NULL DEFAULT '', -- the ledger's record of the paid machine
    unreachable BOOLEAN NOT NULL DEFAULT FALSE,
    deleted     BOOLEAN NOT NULL DEFAULT FALSE,
    created_at  BIGINT  NOT NULL,
    finished_at BIGINT  NOT NULL DEFAULT 0,
    last_job_at BIGINT  NOT NULL DEFAULT 0,
    blocks      INTEGER NOT NULL DEFAULT 0, -- 0: not known yet (auto)
    shard       INTEGER NOT NULL,
    version     BIGINT  NOT NULL DEFAULT 1,
    data        TEXT    NOT NULL
);
CREATE UNIQUE INDEX instance_fleet_num ON instance (fleet_id, num) WHERE NOT deleted;
CREATE UNIQUE INDEX instance_ssh_host ON instance (ssh_host) WHERE ssh_host <> '' AND NOT deleted;
CREATE INDEX instance_project ON instance (project_id, created_at);
CREATE INDEX instance_live ON instance (shard) WHERE NOT deleted;

-- One row per job that holds blocks of an instance: busy blocks are counted from it.
CREATE TABLE assignment (
    job_id      TEXT PRIMARY KEY,
    instance_id TEXT    NOT NULL,
    blocks      INTEGER NOT NULL,
    created_at  BIGINT  NOT NULL
);
CREATE INDEX assignment_instance ON assignment (instance_id);

-- What an instance cost: one open interval per paid machine, closed when it is gone.
CREATE TABLE instance_interval (
    instance_id TEXT PRIMARY KEY,
    price       DOUBLE PRECISION NOT NULL, -- per hour
    started_at  BIGINT NOT NULL,
    ended_at    BIGINT NOT NULL DEFAULT 0
);

-- +goose Down
