-- +goose Up
-- What could not be had lately is found by when it was asked for.
CREATE INDEX intent_refused ON intent (created_at) WHERE state = 'gone' AND billed_from = 0;

-- +goose Down
DROP INDEX intent_refused;
