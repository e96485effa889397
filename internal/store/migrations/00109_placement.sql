-- +goose Up
-- Placement groups are intents that instances of a cluster join.
ALTER TABLE intent ADD COLUMN group_id TEXT NOT NULL DEFAULT ''; -- of an instance: the intent of the group that it joins
ALTER TABLE intent ADD COLUMN member_at BIGINT NOT NULL DEFAULT 0; -- of a group: when somebody last joined or left it
CREATE INDEX intent_member ON intent (group_id) WHERE group_id <> '';
-- One group for a cluster in a place: those that join at the same time find the same one.
CREATE UNIQUE INDEX intent_group ON intent (owner_id, backend, region) WHERE kind = 'placement' AND wanted AND state <> 'gone';

-- +goose Down
DROP INDEX intent_group;
DROP INDEX intent_member;
ALTER TABLE intent DROP COLUMN member_at;
ALTER TABLE intent DROP COLUMN group_id;
