-- +goose Up
-- Plans and the queue compare the versions of all instances of a project: this index holds them in
-- the order in which they are read, so that the rows, a page each, are left alone.
DROP INDEX instance_project_live;
CREATE INDEX instance_versions ON instance (project_id, fleet_id, num, id, version, deleted) WHERE NOT deleted;

-- +goose Down
