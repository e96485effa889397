-- +goose Up
-- Who works on the objects of a shard (hash of the id). The epoch grows with every owner
-- and fences those before.
CREATE TABLE shard (
    id         INTEGER PRIMARY KEY,
    owner      TEXT NOT NULL,
    epoch      BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

INSERT INTO shard (id, owner, epoch, expires_at)
WITH RECURSIVE n (id) AS (SELECT 0 UNION ALL SELECT id + 1 FROM n WHERE id < 63)
SELECT id, '', 0, 0 FROM n;

-- The replicas that share the shards.
CREATE TABLE replica (
    owner      TEXT PRIMARY KEY,
    expires_at BIGINT NOT NULL
);
