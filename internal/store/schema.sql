-- Made by TestSchema from the migrations. Read it, do not edit it.

CREATE TABLE assignment (
    job_id      TEXT PRIMARY KEY,
    instance_id TEXT    NOT NULL,
    blocks      INTEGER NOT NULL,
    created_at  BIGINT  NOT NULL
);

CREATE INDEX assignment_instance ON assignment (instance_id);

CREATE TABLE blob (
    sha256     TEXT PRIMARY KEY, -- hex
    size       BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    data       BYTEA NOT NULL
);

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

CREATE INDEX fleet_created ON fleet (created_at, id);

CREATE UNIQUE INDEX fleet_project_name ON fleet (project_id, name) WHERE NOT deleted;

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

CREATE INDEX instance_live ON instance (shard) WHERE NOT deleted;

CREATE INDEX instance_project ON instance (project_id, created_at);

CREATE UNIQUE INDEX instance_ssh_host ON instance (ssh_host) WHERE ssh_host <> '' AND NOT deleted;

CREATE TABLE instance_health (
    instance_id TEXT NOT NULL,
    at          BIGINT NOT NULL,
    status      TEXT NOT NULL,
    message     TEXT NOT NULL,
    response    TEXT NOT NULL, -- JSON of the check, '' for none
    PRIMARY KEY (instance_id, at)
);

CREATE INDEX instance_health_at ON instance_health (at);

CREATE TABLE instance_interval (
    instance_id TEXT PRIMARY KEY,
    price       DOUBLE PRECISION NOT NULL, -- per hour
    started_at  BIGINT NOT NULL,
    ended_at    BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE intent (
    id          TEXT PRIMARY KEY,
    shard       INTEGER NOT NULL,
    version     BIGINT NOT NULL,
    kind        TEXT NOT NULL, -- instance, volume, …
    backend     TEXT NOT NULL,
    region      TEXT NOT NULL,
    project_id  TEXT NOT NULL,
    owner_kind  TEXT NOT NULL, -- '' for what the sweep found without owner
    owner_id    TEXT NOT NULL,
    state       TEXT NOT NULL,
    wanted      BOOLEAN NOT NULL, -- false: to be deleted
    idle        BOOLEAN NOT NULL, -- nothing to do until something changes
    resource_id TEXT NOT NULL DEFAULT '', -- the provider's
    price       DOUBLE PRECISION NOT NULL, -- US dollars per hour
    created_at  BIGINT NOT NULL,
    check_at    BIGINT NOT NULL DEFAULT 0, -- when somebody last asked whether it still exists
    billed_from BIGINT NOT NULL DEFAULT 0,
    billed_to   BIGINT NOT NULL DEFAULT 0,
    doc         TEXT NOT NULL,
    CONSTRAINT intent_state CHECK (state IN ('intended', 'unknown', 'created', 'deleting', 'gone'))
);

CREATE INDEX intent_billed ON intent (project_id, billed_to, billed_from);

CREATE INDEX intent_busy ON intent (shard) WHERE NOT idle;

CREATE INDEX intent_live ON intent (project_id, backend) WHERE state <> 'gone';

CREATE INDEX intent_owner ON intent (owner_kind, owner_id);

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

CREATE TABLE replica (
    owner      TEXT PRIMARY KEY,
    expires_at BIGINT NOT NULL
);

CREATE TABLE setting (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE shard (
    id         INTEGER PRIMARY KEY,
    owner      TEXT NOT NULL,
    epoch      BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
