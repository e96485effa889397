-- +goose Up
-- How many requests came for the services whose number of replicas follows from it, by slots of
-- five seconds (Unix time / 5), for a few minutes.
CREATE TABLE service_request (
    run_id   TEXT NOT NULL,
    slot     BIGINT NOT NULL,
    requests BIGINT NOT NULL,
    PRIMARY KEY (run_id, slot)
);

-- +goose Down
DROP TABLE service_request;
