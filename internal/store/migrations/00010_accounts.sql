-- +goose Up
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
CREATE UNIQUE INDEX account_name ON account (name) WHERE NOT deleted;
CREATE UNIQUE INDEX account_token ON account (token_hash) WHERE NOT deleted;

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
CREATE UNIQUE INDEX project_name ON project (name) WHERE NOT deleted;

CREATE TABLE member (
    project_id TEXT    NOT NULL,
    user_id    TEXT    NOT NULL,
    role       TEXT    NOT NULL,
    num        INTEGER NOT NULL,
    PRIMARY KEY (project_id, user_id)
);
CREATE INDEX member_user ON member (user_id);

CREATE TABLE backend_config (
    project_id TEXT   NOT NULL,
    type       TEXT   NOT NULL,
    sealed     TEXT   NOT NULL, -- the whole configuration: it holds credentials
    created_at BIGINT NOT NULL,
    PRIMARY KEY (project_id, type)
);

CREATE TABLE secret (
    id         TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    name       TEXT NOT NULL,
    sealed     TEXT NOT NULL
);
CREATE UNIQUE INDEX secret_name ON secret (project_id, name);

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
CREATE TABLE code (
    project_id TEXT NOT NULL,
    repo_id    TEXT NOT NULL,
    hash       TEXT NOT NULL, -- as the client named it
    blob       TEXT NOT NULL, -- SHA-256 of the content
    PRIMARY KEY (project_id, repo_id, hash)
);
CREATE TABLE archive (
    id      TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    hash    TEXT NOT NULL,
    blob    TEXT NOT NULL
);
CREATE UNIQUE INDEX archive_hash ON archive (user_id, hash);

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

-- +goose Down
