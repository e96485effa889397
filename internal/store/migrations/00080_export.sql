-- +goose Up
-- What projects share with each other: an export lists objects, an import is a project that uses it.
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

CREATE TABLE import (
    id         TEXT PRIMARY KEY,
    export_id  TEXT   NOT NULL,
    project_id TEXT   NOT NULL, -- the importer
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX import_export_project ON import (export_id, project_id);
CREATE INDEX import_project ON import (project_id);

-- +goose Down
