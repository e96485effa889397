-- +goose Up
-- The key of the agent on an instance: a host of the user that is added under two names has one.
ALTER TABLE instance ADD COLUMN agent_key TEXT NOT NULL DEFAULT '';
CREATE INDEX instance_agent_key ON instance (agent_key) WHERE agent_key <> '' AND NOT deleted;

-- +goose Down
DROP INDEX instance_agent_key;
ALTER TABLE instance DROP COLUMN agent_key;
