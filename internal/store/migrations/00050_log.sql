-- +goose Up
-- The streams of logs of jobs, for servers that keep logs in the database.
CREATE TABLE log_stream (
    job_id     TEXT NOT NULL,
    source     TEXT NOT NULL,
    size       BIGINT NOT NULL, -- bytes
    last_at    BIGINT NOT NULL, -- time of the last chunk
    written_at BIGINT NOT NULL, -- when the server wrote last; no index: it changes all the time
    PRIMARY KEY (job_id, source)
);

CREATE TABLE log_chunk (
    job_id TEXT NOT NULL,
    source TEXT NOT NULL,
    start  BIGINT NOT NULL, -- offset of the first byte
    at     BIGINT NOT NULL, -- grows with start
    data   BYTEA NOT NULL,
    PRIMARY KEY (job_id, source, start)
);
CREATE UNIQUE INDEX log_chunk_at ON log_chunk (job_id, source, at);
