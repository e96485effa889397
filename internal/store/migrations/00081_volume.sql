-- +goose Up
CREATE TABLE volume (
    id         TEXT PRIMARY KEY,
    project_id TEXT    NOT NULL,
    user_id    TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    status     TEXT    NOT NULL,
    backend    TEXT    NOT NULL,
    intent_id  TEXT    NOT NULL DEFAULT '', -- the ledger's record of the disk, '' for one that was there before
    unwanted   BOOLEAN NOT NULL DEFAULT FALSE, -- to be deleted: it cannot be mounted any more
    deleted    BOOLEAN NOT NULL DEFAULT FALSE,
    created_at BIGINT  NOT NULL,
    shard      INTEGER NOT NULL,
    version    BIGINT  NOT NULL DEFAULT 1,
    data       TEXT    NOT NULL,
    CONSTRAINT volume_status CHECK (status IN ('submitted', 'active', 'failed'))
);
CREATE UNIQUE INDEX volume_project_name ON volume (project_id, name) WHERE NOT deleted;
CREATE INDEX volume_page ON volume (project_id, created_at DESC, id);
CREATE INDEX volume_live ON volume (shard) WHERE NOT deleted;

-- Which instances have a volume.
CREATE TABLE volume_attachment (
    volume_id   TEXT   NOT NULL,
    instance_id TEXT   NOT NULL,
    device      TEXT   NOT NULL DEFAULT '', -- '' when the host has to find it
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (volume_id, instance_id)
);
CREATE INDEX volume_attachment_instance ON volume_attachment (instance_id);

-- +goose Down
