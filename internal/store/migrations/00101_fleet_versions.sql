-- +goose Up
-- The versions of instances are read by fleet, for lists and for what jobs can be placed on.
DROP INDEX instance_versions;
CREATE INDEX instance_versions ON instance (fleet_id, num, id, version, deleted) WHERE NOT deleted;

-- +goose Down
