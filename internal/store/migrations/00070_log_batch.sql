-- +goose Up
-- Streams that a log service keeps: the database holds what the service has not taken yet, and for a
-- while what it has.
ALTER TABLE log_stream ADD COLUMN name TEXT NOT NULL DEFAULT '';             -- project/run; '': no service has it
ALTER TABLE log_stream ADD COLUMN incarnation TEXT NOT NULL DEFAULT '';      -- differs when a deleted stream begins again
ALTER TABLE log_stream ADD COLUMN shard INTEGER NOT NULL DEFAULT 0;
ALTER TABLE log_stream ADD COLUMN sent BIGINT NOT NULL DEFAULT 0;            -- bytes that the service has taken
ALTER TABLE log_stream ADD COLUMN dropped BIGINT NOT NULL DEFAULT 0;         -- bytes that only the service has
ALTER TABLE log_stream ADD COLUMN waiting_since BIGINT NOT NULL DEFAULT 0;   -- when the first byte behind sent came
ALTER TABLE log_stream ADD COLUMN shipping BOOLEAN NOT NULL DEFAULT FALSE;   -- dropped < size: something is to do
CREATE INDEX log_stream_shipping ON log_stream (shard, job_id) WHERE shipping;

CREATE TABLE log_batch (
    job_id   TEXT   NOT NULL,
    source   TEXT   NOT NULL,
    start    BIGINT NOT NULL, -- offset of the first byte
    size     BIGINT NOT NULL,
    first_at BIGINT NOT NULL, -- times of the first and the last chunk
    last_at  BIGINT NOT NULL,
    service  TEXT   NOT NULL, -- who has it
    tried_at BIGINT NOT NULL, -- when it was sent last
    sent_at  BIGINT NOT NULL, -- when the service said that it has it, 0: not yet
    layout   BYTEA  NOT NULL, -- sizes and times of chunks and of what they are at the service
    PRIMARY KEY (job_id, source, start)
);
