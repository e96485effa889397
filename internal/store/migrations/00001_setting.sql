-- +goose Up
-- What belongs to the server as a whole, one value per name.
CREATE TABLE setting (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
