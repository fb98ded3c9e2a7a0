CREATE TABLE meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('revision', 1), ('compacted', 0), ('history_bytes', 0), ('engine_ms', 0), ('lease_next', 1);
CREATE TABLE kv(
    key TEXT PRIMARY KEY, value BLOB NOT NULL,
    create_revision INTEGER NOT NULL, mod_revision INTEGER NOT NULL, version INTEGER NOT NULL, lease INTEGER
) WITHOUT ROWID;
CREATE INDEX kv_lease ON kv(lease) WHERE lease IS NOT NULL;
CREATE TABLE history(
    revision INTEGER NOT NULL, n INTEGER NOT NULL, key TEXT NOT NULL, value BLOB,
    create_revision INTEGER, version INTEGER, lease INTEGER,
    PRIMARY KEY(revision, n)
) WITHOUT ROWID;
CREATE TABLE lease(id INTEGER PRIMARY KEY, ttl_ms INTEGER NOT NULL);
