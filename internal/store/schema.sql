-- Made by TestSchema from the migrations. Read it, do not edit it.

CREATE TABLE account (
    id             TEXT PRIMARY KEY,
    name           TEXT    NOT NULL,
    global_role    TEXT    NOT NULL,
    email          TEXT    NOT NULL DEFAULT '',
    active         BOOLEAN NOT NULL DEFAULT TRUE,
    token_hash     TEXT    NOT NULL, -- SHA-256: what requests are looked up by
    token_sealed   TEXT    NOT NULL, -- admins and the user may read it back
    public_key     TEXT    NOT NULL,
    private_sealed TEXT    NOT NULL,
    created_at     BIGINT  NOT NULL,
    deleted        BOOLEAN NOT NULL DEFAULT FALSE
);

CREATE UNIQUE INDEX account_name ON account (lower(name)) WHERE NOT deleted;

CREATE UNIQUE INDEX account_token ON account (token_hash) WHERE NOT deleted;

CREATE TABLE archive (
    id      TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    hash    TEXT NOT NULL,
    blob    TEXT NOT NULL
);

CREATE UNIQUE INDEX archive_hash ON archive (user_id, hash);

CREATE TABLE assignment (
    job_id      TEXT PRIMARY KEY,
    instance_id TEXT    NOT NULL,
    blocks      INTEGER NOT NULL,
    created_at  BIGINT  NOT NULL
, run_id TEXT NOT NULL DEFAULT '');

CREATE INDEX assignment_instance ON assignment (instance_id);

CREATE INDEX assignment_run ON assignment (run_id);

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

CREATE INDEX assignment_ended_project ON assignment_ended (project_id, ended_at, created_at, run_id, instance_id, blocks, of_blocks);

CREATE INDEX assignment_ended_run ON assignment_ended (run_id);

CREATE TABLE backend_config (
    project_id TEXT   NOT NULL,
    type       TEXT   NOT NULL,
    sealed     TEXT   NOT NULL, -- the whole configuration: it holds credentials
    created_at BIGINT NOT NULL,
    PRIMARY KEY (project_id, type)
);

CREATE TABLE blob (
    sha256     TEXT PRIMARY KEY, -- hex
    size       BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    data       BYTEA NOT NULL
);

CREATE TABLE code (
    project_id TEXT NOT NULL,
    repo_id    TEXT NOT NULL,
    hash       TEXT NOT NULL, -- as the client named it
    blob       TEXT NOT NULL, -- SHA-256 of the content
    PRIMARY KEY (project_id, repo_id, hash)
);

CREATE TABLE event (
    id          TEXT PRIMARY KEY,
    message     TEXT   NOT NULL,
    recorded_at BIGINT NOT NULL,
    actor_id    TEXT   NOT NULL DEFAULT '',
    actor_name  TEXT   NOT NULL DEFAULT ''
);

CREATE INDEX event_recorded ON event (recorded_at, id);

CREATE TABLE event_target (
    event_id    TEXT    NOT NULL,
    num         INTEGER NOT NULL,
    recorded_at BIGINT  NOT NULL,
    type        TEXT    NOT NULL,
    target_id   TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    project_id  TEXT    NOT NULL DEFAULT '',
    parent_id   TEXT    NOT NULL DEFAULT '', -- an instance's fleet, a job's run
    PRIMARY KEY (event_id, num)
);

CREATE INDEX event_target_object ON event_target (target_id, recorded_at);

CREATE INDEX event_target_parent ON event_target (parent_id, recorded_at);

CREATE INDEX event_target_project ON event_target (project_id, recorded_at);

CREATE TABLE export (
    id         TEXT PRIMARY KEY,
    project_id TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    is_global  BOOLEAN NOT NULL DEFAULT FALSE, -- imported by every project, also by those to come
    created_at BIGINT  NOT NULL,
    version    BIGINT  NOT NULL DEFAULT 1
);

CREATE UNIQUE INDEX export_project_name ON export (project_id, name);

CREATE TABLE export_item (
    export_id TEXT NOT NULL,
    object_id TEXT NOT NULL,
    kind      TEXT NOT NULL, -- fleet, gateway
    PRIMARY KEY (export_id, object_id)
);

CREATE INDEX export_item_object ON export_item (object_id);

CREATE TABLE fleet (
    id         TEXT PRIMARY KEY,
    project_id TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    status     TEXT    NOT NULL,
    deleted    BOOLEAN NOT NULL DEFAULT FALSE,
    created_at BIGINT  NOT NULL,
    shard      INTEGER NOT NULL,
    version    BIGINT  NOT NULL DEFAULT 1,
    data       TEXT    NOT NULL
, attempts INTEGER NOT NULL DEFAULT 0, consolidated_at BIGINT NOT NULL DEFAULT 0);

CREATE INDEX fleet_created ON fleet (created_at, id);

CREATE INDEX fleet_names ON fleet (project_id, id, name, deleted);

CREATE UNIQUE INDEX fleet_project_name ON fleet (project_id, name) WHERE NOT deleted;

CREATE TABLE fleet_changes (
    fleet_id TEXT   PRIMARY KEY,
    changes  BIGINT NOT NULL -- of its instances, ever
);

CREATE TABLE gateway (
    id         TEXT PRIMARY KEY,
    project_id TEXT   NOT NULL,
    name       TEXT   NOT NULL,
    status     TEXT   NOT NULL,
    created_at BIGINT NOT NULL,
    version    BIGINT NOT NULL DEFAULT 1,
    data       TEXT   NOT NULL,
    CONSTRAINT gateway_status CHECK (status IN ('submitted', 'provisioning', 'running', 'failed'))
);

CREATE UNIQUE INDEX gateway_project_name ON gateway (project_id, name);

CREATE TABLE gateway_default (
    project_id TEXT PRIMARY KEY,
    gateway_id TEXT NOT NULL
);

CREATE INDEX gateway_default_gateway ON gateway_default (gateway_id);

CREATE TABLE import (
    id         TEXT PRIMARY KEY,
    export_id  TEXT   NOT NULL,
    project_id TEXT   NOT NULL, -- the importer
    created_at BIGINT NOT NULL
);

CREATE UNIQUE INDEX import_export_project ON import (export_id, project_id);

CREATE INDEX import_project ON import (project_id);

CREATE TRIGGER instance_changed AFTER UPDATE ON instance BEGIN
    INSERT INTO fleet_changes (fleet_id, changes) VALUES (NEW.fleet_id, 1)
    ON CONFLICT (fleet_id) DO UPDATE SET changes = changes + 1;
    UPDATE fleet_changes SET changes = changes + 1 WHERE fleet_id = OLD.fleet_id AND OLD.fleet_id <> NEW.fleet_id;
END;

CREATE TRIGGER instance_gone AFTER DELETE ON instance BEGIN
    UPDATE fleet_changes SET changes = changes + 1 WHERE fleet_id = OLD.fleet_id;
END;

CREATE TRIGGER instance_new AFTER INSERT ON instance BEGIN
    INSERT INTO fleet_changes (fleet_id, changes) VALUES (NEW.fleet_id, 1)
    ON CONFLICT (fleet_id) DO UPDATE SET changes = changes + 1;
END;

CREATE TABLE instance (
    id          TEXT PRIMARY KEY,
    project_id  TEXT    NOT NULL,
    fleet_id    TEXT    NOT NULL,
    num         INTEGER NOT NULL,
    name        TEXT    NOT NULL,
    status      TEXT    NOT NULL,
    backend     TEXT    NOT NULL, -- '' until capacity was chosen; 'remote' for SSH hosts
    ssh_host    TEXT    NOT NULL DEFAULT '', -- hostname of an SSH host: one live instance per host
    intent_id   TEXT    NOT NULL DEFAULT '', -- the ledger's record of the paid machine
    unreachable BOOLEAN NOT NULL DEFAULT FALSE,
    deleted     BOOLEAN NOT NULL DEFAULT FALSE,
    created_at  BIGINT  NOT NULL,
    finished_at BIGINT  NOT NULL DEFAULT 0,
    last_job_at BIGINT  NOT NULL DEFAULT 0,
    blocks      INTEGER NOT NULL DEFAULT 0, -- 0: not known yet (auto)
    shard       INTEGER NOT NULL,
    version     BIGINT  NOT NULL DEFAULT 1,
    data        TEXT    NOT NULL
, agent_key TEXT NOT NULL DEFAULT '');

CREATE INDEX instance_agent_key ON instance (agent_key) WHERE agent_key <> '' AND NOT deleted;

CREATE UNIQUE INDEX instance_fleet_num ON instance (fleet_id, num) WHERE NOT deleted;

CREATE INDEX instance_live ON instance (shard) WHERE NOT deleted;

CREATE INDEX instance_of_fleet ON instance (project_id, fleet_id, id, num, blocks);

CREATE INDEX instance_page ON instance (project_id, created_at DESC, id);

CREATE UNIQUE INDEX instance_ssh_host ON instance (ssh_host) WHERE ssh_host <> '' AND NOT deleted;

CREATE INDEX instance_versions ON instance (fleet_id, num, id, version, deleted) WHERE NOT deleted;

CREATE TABLE instance_health (
    instance_id TEXT NOT NULL,
    at          BIGINT NOT NULL,
    status      TEXT NOT NULL,
    message     TEXT NOT NULL,
    response    TEXT NOT NULL, -- JSON of the check, '' for none
    PRIMARY KEY (instance_id, at)
);

CREATE INDEX instance_health_at ON instance_health (at);

CREATE TABLE instance_interval (
    instance_id TEXT PRIMARY KEY,
    price       DOUBLE PRECISION NOT NULL, -- per hour
    started_at  BIGINT NOT NULL,
    ended_at    BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE intent (
    id          TEXT PRIMARY KEY,
    shard       INTEGER NOT NULL,
    version     BIGINT NOT NULL,
    kind        TEXT NOT NULL, -- instance, volume, …
    backend     TEXT NOT NULL,
    region      TEXT NOT NULL,
    project_id  TEXT NOT NULL,
    owner_kind  TEXT NOT NULL, -- '' for what the sweep found without owner
    owner_id    TEXT NOT NULL,
    state       TEXT NOT NULL,
    wanted      BOOLEAN NOT NULL, -- false: to be deleted
    idle        BOOLEAN NOT NULL, -- nothing to do until something changes
    resource_id TEXT NOT NULL DEFAULT '', -- the provider's
    price       DOUBLE PRECISION NOT NULL, -- US dollars per hour
    created_at  BIGINT NOT NULL,
    check_at    BIGINT NOT NULL DEFAULT 0, -- when somebody last asked whether it still exists
    billed_from BIGINT NOT NULL DEFAULT 0,
    billed_to   BIGINT NOT NULL DEFAULT 0,
    doc         TEXT NOT NULL, group_id TEXT NOT NULL DEFAULT '', member_at BIGINT NOT NULL DEFAULT 0, earlier TEXT NOT NULL DEFAULT '', astray BOOLEAN NOT NULL DEFAULT FALSE,
    CONSTRAINT intent_state CHECK (state IN ('intended', 'unknown', 'created', 'deleting', 'gone'))
);

CREATE INDEX intent_busy ON intent (shard) WHERE NOT idle;

CREATE UNIQUE INDEX intent_group ON intent (owner_id, backend, region) WHERE kind = 'placement' AND wanted AND state <> 'gone';

CREATE INDEX intent_live ON intent (project_id, backend) WHERE state <> 'gone';

CREATE INDEX intent_member ON intent (group_id) WHERE group_id <> '';

CREATE INDEX intent_open ON intent (project_id) WHERE (NOT idle OR astray) AND state <> 'gone' AND billed_from > 0;

CREATE INDEX intent_owner ON intent (owner_kind, owner_id);

CREATE INDEX intent_paid ON intent (project_id, billed_to, billed_from, price, earlier, kind, backend, owner_kind, owner_id, id) WHERE billed_from > 0;

CREATE INDEX intent_refused ON intent (created_at) WHERE state = 'gone' AND billed_from = 0;

CREATE TABLE job (
    id             TEXT PRIMARY KEY,
    run_id         TEXT    NOT NULL,
    project_id     TEXT    NOT NULL,
    replica_num    INTEGER NOT NULL,
    job_num        INTEGER NOT NULL,
    submission_num INTEGER NOT NULL,
    status         TEXT    NOT NULL,
    instance_id    TEXT    NOT NULL DEFAULT '',
    submitted_at   BIGINT  NOT NULL,
    shard          INTEGER NOT NULL,
    version        BIGINT  NOT NULL DEFAULT 1,
    data           TEXT    NOT NULL,
    observed       TEXT    NOT NULL DEFAULT '' -- the task as its host last reported it
);

CREATE INDEX job_live ON job (shard) WHERE status NOT IN ('terminated', 'aborted', 'failed', 'done');

CREATE UNIQUE INDEX job_submission ON job (run_id, replica_num, job_num, submission_num);

CREATE INDEX job_waiting ON job (project_id) WHERE status = 'submitted';

CREATE TABLE job_dcgm (
    job_id TEXT PRIMARY KEY,
    at     BIGINT NOT NULL,
    packed BYTEA NOT NULL
, size BIGINT NOT NULL DEFAULT 0);

CREATE INDEX job_dcgm_at ON job_dcgm (at);

CREATE TABLE job_metrics (
    job_id      TEXT NOT NULL,
    at          BIGINT NOT NULL,
    cpu_micros  BIGINT NOT NULL, -- cumulative
    memory      BIGINT NOT NULL, -- bytes
    working_set BIGINT NOT NULL, -- bytes
    gpus        TEXT NOT NULL,   -- JSON
    PRIMARY KEY (job_id, at)
);

CREATE INDEX job_metrics_at ON job_metrics (at);

CREATE TABLE log_batch (
    job_id   TEXT   NOT NULL,
    source   TEXT   NOT NULL,
    start    BIGINT NOT NULL, -- offset of the first byte
    size     BIGINT NOT NULL,
    first_at BIGINT NOT NULL, -- times of the first and the last chunk
    last_at  BIGINT NOT NULL,
    service  TEXT   NOT NULL, -- who has it
    tried_at BIGINT NOT NULL, -- when it was sent last
    tries    INTEGER NOT NULL, -- how often it was sent
    sent_at  BIGINT NOT NULL, -- when the service said that it has it, 0: not yet
    layout   BYTEA  NOT NULL, -- sizes and times of chunks and of what they are at the service
    PRIMARY KEY (job_id, source, start)
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

CREATE TABLE log_shipment (
    job_id        TEXT    NOT NULL,
    source        TEXT    NOT NULL,
    shard         INTEGER NOT NULL,
    name          TEXT    NOT NULL, -- project/run
    incarnation   TEXT    NOT NULL, -- differs when a deleted stream begins again
    size          BIGINT  NOT NULL, -- bytes, as in log_stream
    sent          BIGINT  NOT NULL, -- bytes that the service has taken
    dropped       BIGINT  NOT NULL, -- bytes that only the service has
    waiting_since BIGINT  NOT NULL, -- when the first byte behind sent came
    shipping      BOOLEAN NOT NULL, -- dropped < size: something is to do
    PRIMARY KEY (job_id, source)
);

CREATE INDEX log_shipment_shipping ON log_shipment (shard, job_id) WHERE shipping;

CREATE TABLE log_stream (
    job_id     TEXT NOT NULL,
    source     TEXT NOT NULL,
    size       BIGINT NOT NULL, -- bytes
    last_at    BIGINT NOT NULL, -- time of the last chunk
    written_at BIGINT NOT NULL, -- when the server wrote last; no index: it changes all the time
    PRIMARY KEY (job_id, source)
);

CREATE TABLE member (
    project_id TEXT    NOT NULL,
    user_id    TEXT    NOT NULL,
    role       TEXT    NOT NULL,
    num        INTEGER NOT NULL,
    PRIMARY KEY (project_id, user_id)
);

CREATE INDEX member_user ON member (user_id);

CREATE TABLE project (
    id             TEXT PRIMARY KEY,
    name           TEXT    NOT NULL,
    owner_id       TEXT    NOT NULL,
    public_key     TEXT    NOT NULL,
    private_sealed TEXT    NOT NULL,
    is_public      BOOLEAN NOT NULL DEFAULT FALSE,
    templates_repo TEXT    NOT NULL DEFAULT '',
    created_at     BIGINT  NOT NULL,
    deleted        BOOLEAN NOT NULL DEFAULT FALSE
);

CREATE UNIQUE INDEX project_name ON project (lower(name)) WHERE NOT deleted;

CREATE TABLE public_key (
    id          TEXT PRIMARY KEY,
    user_id     TEXT   NOT NULL,
    name        TEXT   NOT NULL,
    type        TEXT   NOT NULL,
    key         TEXT   NOT NULL,
    fingerprint TEXT   NOT NULL,
    added_at    BIGINT NOT NULL
);

CREATE UNIQUE INDEX public_key_fingerprint ON public_key (user_id, fingerprint);

CREATE TABLE replica (
    owner      TEXT PRIMARY KEY,
    expires_at BIGINT NOT NULL
, joined_at BIGINT NOT NULL DEFAULT 0);

CREATE TABLE repo (
    project_id TEXT NOT NULL,
    repo_id    TEXT NOT NULL,
    info       TEXT NOT NULL,
    PRIMARY KEY (project_id, repo_id)
);

CREATE TABLE repo_creds (
    project_id TEXT NOT NULL,
    repo_id    TEXT NOT NULL,
    user_id    TEXT NOT NULL,
    sealed     TEXT NOT NULL,
    PRIMARY KEY (project_id, repo_id, user_id)
);

CREATE TABLE run (
    id           TEXT PRIMARY KEY,
    project_id   TEXT    NOT NULL,
    user_id      TEXT    NOT NULL,
    name         TEXT    NOT NULL,
    status       TEXT    NOT NULL,
    priority     INTEGER NOT NULL DEFAULT 0,
    repo_id      TEXT    NOT NULL DEFAULT '',
    deleted      BOOLEAN NOT NULL DEFAULT FALSE,
    submitted_at BIGINT  NOT NULL,
    shard        INTEGER NOT NULL,
    version      BIGINT  NOT NULL DEFAULT 1,
    data         TEXT    NOT NULL
);

CREATE INDEX run_active ON run (project_id, submitted_at DESC, id) WHERE status NOT IN ('terminated', 'failed', 'done');

CREATE INDEX run_active_order ON run (submitted_at DESC, id) WHERE status NOT IN ('terminated', 'failed', 'done');

CREATE INDEX run_live ON run (shard) WHERE status NOT IN ('terminated', 'failed', 'done');

CREATE INDEX run_order ON run (submitted_at DESC, id);

CREATE INDEX run_page ON run (project_id, submitted_at DESC, id);

CREATE UNIQUE INDEX run_project_id_name_key ON run (project_id, name) WHERE NOT deleted;

CREATE TABLE secret (
    id         TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    name       TEXT NOT NULL,
    sealed     TEXT NOT NULL
, created_at BIGINT NOT NULL DEFAULT 0);

CREATE UNIQUE INDEX secret_name ON secret (project_id, name);

CREATE TABLE service_request (
    run_id   TEXT NOT NULL,
    slot     BIGINT NOT NULL,
    requests BIGINT NOT NULL,
    PRIMARY KEY (run_id, slot)
);

CREATE TABLE setting (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

CREATE TABLE shard (
    id         INTEGER PRIMARY KEY,
    owner      TEXT NOT NULL,
    epoch      BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

CREATE TABLE volume (
    id         TEXT PRIMARY KEY,
    project_id TEXT    NOT NULL,
    user_id    TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    status     TEXT    NOT NULL,
    backend    TEXT    NOT NULL,
    intent_id  TEXT    NOT NULL DEFAULT '', -- the ledger's record of the disk, '' for one that was there before
    unwanted   BOOLEAN NOT NULL DEFAULT FALSE, -- to be deleted: it cannot be mounted any more
    deleted    BOOLEAN NOT NULL DEFAULT FALSE,
    created_at BIGINT  NOT NULL,
    shard      INTEGER NOT NULL,
    version    BIGINT  NOT NULL DEFAULT 1,
    data       TEXT    NOT NULL,
    CONSTRAINT volume_status CHECK (status IN ('submitted', 'active', 'failed'))
);

CREATE INDEX volume_live ON volume (shard) WHERE NOT deleted;

CREATE INDEX volume_page ON volume (project_id, created_at DESC, id);

CREATE UNIQUE INDEX volume_project_name ON volume (project_id, name) WHERE NOT deleted;

CREATE TABLE volume_attachment (
    volume_id   TEXT   NOT NULL,
    instance_id TEXT   NOT NULL,
    device      TEXT   NOT NULL DEFAULT '', -- '' when the host has to find it
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (volume_id, instance_id)
);

CREATE INDEX volume_attachment_instance ON volume_attachment (instance_id);
