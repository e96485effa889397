-- +goose Up
-- Which fleets are deleted, too, without reading rows.
DROP INDEX fleet_names;
CREATE INDEX fleet_names ON fleet (project_id, id, name, deleted);

-- +goose Down
DROP INDEX fleet_names;
CREATE INDEX fleet_names ON fleet (project_id, id, name);
