-- +goose Up
-- Streams that a log service keeps: log_chunk holds what the service has not taken yet, and for a
-- while what it has.
CREATE TABLE log_shipment (
    job_id        TEXT    NOT NULL,
    source        TEXT    NOT NULL,
    shard         INTEGER NOT NULL,
    name          TEXT    NOT NULL, -- project/run
    incarnation   TEXT    NOT NULL, -- differs when a deleted stream begins again
    size          BIGINT  NOT NULL, -- bytes, as in log_stream
    sent          BIGINT  NOT NULL, -- bytes that the service has taken
    dropped       BIGINT  NOT NULL, -- bytes that only the service has
    waiting_since BIGINT  NOT NULL, -- when the first byte behind sent came
    shipping      BOOLEAN NOT NULL, -- dropped < size: something is to do
    PRIMARY KEY (job_id, source)
);
CREATE INDEX log_shipment_shipping ON log_shipment (shard, job_id) WHERE shipping;

CREATE TABLE log_batch (
    job_id   TEXT   NOT NULL,
    source   TEXT   NOT NULL,
    start    BIGINT NOT NULL, -- offset of the first byte
    size     BIGINT NOT NULL,
    first_at BIGINT NOT NULL, -- times of the first and the last chunk
    last_at  BIGINT NOT NULL,
    service  TEXT   NOT NULL, -- who has it
    tried_at BIGINT NOT NULL, -- when it was sent last
    tries    INTEGER NOT NULL, -- how often it was sent
    sent_at  BIGINT NOT NULL, -- when the service said that it has it, 0: not yet
    layout   BYTEA  NOT NULL, -- sizes and times of chunks and of what they are at the service
    PRIMARY KEY (job_id, source, start)
);
