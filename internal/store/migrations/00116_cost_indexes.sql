-- +goose Up
-- What of the paid things may be in doubt: a few of very many.
DROP INDEX intent_astray;
CREATE INDEX intent_open ON intent (project_id) WHERE (NOT idle OR astray) AND state <> 'gone' AND billed_from > 0;
-- Names of fleets, also deleted ones, without reading rows.
CREATE INDEX fleet_names ON fleet (project_id, id, name);

-- +goose Down
DROP INDEX fleet_names;
DROP INDEX intent_open;
CREATE INDEX intent_astray ON intent (project_id) WHERE astray;
