-- +goose Up
-- What a machine cost before its price changed, when it is not ''.
ALTER TABLE intent ADD COLUMN earlier TEXT NOT NULL DEFAULT '';
-- The backend's present credentials do not know the resource, see ledger.Record.Astray.
ALTER TABLE intent ADD COLUMN astray BOOLEAN NOT NULL DEFAULT FALSE;
UPDATE intent SET astray = TRUE WHERE state <> 'gone' AND doc LIKE '%"message":"the backend''s present credentials do not show it,%';
CREATE INDEX intent_astray ON intent (project_id) WHERE astray;
-- Sums of what was paid read this index and no rows; it has what intent_billed had too.
DROP INDEX intent_billed;
CREATE INDEX intent_paid ON intent (project_id, billed_to, billed_from, price, earlier, kind, backend, owner_kind, owner_id, id) WHERE billed_from > 0;

-- What a job held until it was released: assignment has what is held now.
CREATE TABLE assignment_ended (
    job_id      TEXT    NOT NULL,
    instance_id TEXT    NOT NULL,
    project_id  TEXT    NOT NULL, -- of the instance: who pays
    run_id      TEXT    NOT NULL,
    blocks      INTEGER NOT NULL,
    of_blocks   INTEGER NOT NULL, -- that the instance had
    created_at  BIGINT  NOT NULL,
    ended_at    BIGINT  NOT NULL,
    PRIMARY KEY (job_id, instance_id, created_at)
);
CREATE INDEX assignment_ended_run ON assignment_ended (run_id);
CREATE INDEX assignment_ended_project ON assignment_ended (project_id, ended_at, created_at, run_id, instance_id, blocks, of_blocks);
ALTER TABLE assignment ADD COLUMN run_id TEXT NOT NULL DEFAULT '';
UPDATE assignment SET run_id = coalesce((SELECT run_id FROM job WHERE job.id = assignment.job_id), '');
CREATE INDEX assignment_run ON assignment (run_id);

-- Which instances are a fleet's, ended ones too, without reading rows.
CREATE INDEX instance_of_fleet ON instance (project_id, fleet_id, id, num, blocks);
-- The table instance_interval is used no more. It stays for servers of the version before, which write it
-- while both versions run.

-- +goose Down
DROP INDEX instance_of_fleet;
DROP INDEX assignment_run;
ALTER TABLE assignment DROP COLUMN run_id;
DROP TABLE assignment_ended;
DROP INDEX intent_paid;
CREATE INDEX intent_billed ON intent (project_id, billed_to, billed_from);
DROP INDEX intent_astray;
ALTER TABLE intent DROP COLUMN astray;
ALTER TABLE intent DROP COLUMN earlier;
