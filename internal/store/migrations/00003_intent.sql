-- +goose Up
-- Everything that costs money, from before it is asked for until the provider says that it
-- is gone. Rows stay: they are the record of what was paid.
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
CREATE INDEX intent_busy ON intent (shard) WHERE NOT idle;
CREATE INDEX intent_live ON intent (project_id, backend) WHERE state <> 'gone';
CREATE INDEX intent_owner ON intent (owner_kind, owner_id);
CREATE INDEX intent_billed ON intent (project_id, billed_to, billed_from);
