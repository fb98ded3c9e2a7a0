//! The tables.

/// Only ever append.
pub(super) const MIGRATIONS: &[&str] = &["
CREATE TABLE plane (one INTEGER PRIMARY KEY CHECK (one = 1), secret BLOB NOT NULL, epoch INTEGER NOT NULL);
CREATE TABLE clock (
    one INTEGER PRIMARY KEY CHECK (one = 1), boot_id TEXT NOT NULL, origin_ms INTEGER NOT NULL, seen_ms INTEGER NOT NULL
);
CREATE TABLE queue (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    spec TEXT NOT NULL,
    tags TEXT NOT NULL DEFAULT '{}',
    created INTEGER NOT NULL,
    modified INTEGER NOT NULL,
    purged INTEGER NOT NULL DEFAULT 0,
    last INTEGER NOT NULL DEFAULT 0,
    floor INTEGER NOT NULL DEFAULT 0,
    fresh INTEGER NOT NULL DEFAULT 0,
    messages INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE deleted (name TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE message (
    id INTEGER PRIMARY KEY,
    uid BLOB NOT NULL,
    sent INTEGER NOT NULL,
    body TEXT NOT NULL,
    attributes BLOB,
    trace TEXT,
    sender TEXT NOT NULL,
    grp TEXT,
    deduplication TEXT,
    buried TEXT
);
CREATE INDEX message_group ON message (grp, id) WHERE grp IS NOT NULL;
CREATE TABLE claim (
    id INTEGER PRIMARY KEY,
    queue INTEGER NOT NULL,
    due INTEGER NOT NULL,
    receives INTEGER NOT NULL,
    failures INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    first INTEGER NOT NULL DEFAULT 0,
    since INTEGER NOT NULL DEFAULT 0,
    epoch INTEGER NOT NULL DEFAULT 0,
    error TEXT
);
CREATE INDEX claim_due ON claim (queue, due, receives);
CREATE TABLE grp (
    queue INTEGER NOT NULL, name TEXT NOT NULL, due INTEGER NOT NULL, head INTEGER NOT NULL, PRIMARY KEY (queue, name)
) WITHOUT ROWID;
CREATE INDEX grp_due ON grp (queue, due, head);
CREATE TABLE seen (
    queue INTEGER NOT NULL, key TEXT NOT NULL, until INTEGER NOT NULL, hash BLOB, uid BLOB NOT NULL, place INTEGER NOT NULL,
    PRIMARY KEY (queue, key)
) WITHOUT ROWID;
CREATE INDEX seen_until ON seen (until);
CREATE TABLE doomed (low INTEGER PRIMARY KEY, high INTEGER NOT NULL);
CREATE TABLE move (
    handle TEXT PRIMARY KEY,
    source TEXT NOT NULL,
    destination TEXT,
    state TEXT NOT NULL,
    rate INTEGER,
    moved INTEGER NOT NULL DEFAULT 0,
    to_move INTEGER NOT NULL,
    last INTEGER NOT NULL,
    failure TEXT,
    started INTEGER NOT NULL
);
CREATE INDEX move_source ON move (source, started);
", "
CREATE TABLE work (
    token TEXT PRIMARY KEY, worker TEXT NOT NULL, queue TEXT NOT NULL, receipt TEXT NOT NULL, message TEXT NOT NULL,
    receive INTEGER NOT NULL, began INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE attempt (
    number INTEGER PRIMARY KEY AUTOINCREMENT, worker TEXT NOT NULL, queue TEXT NOT NULL, message TEXT NOT NULL,
    receive INTEGER NOT NULL, began INTEGER NOT NULL, ended INTEGER NOT NULL, outcome TEXT NOT NULL, output TEXT NOT NULL
);
CREATE INDEX attempt_worker ON attempt (worker, number);
", "
CREATE TABLE flow_definition (hash TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE flow_run (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    workflow TEXT NOT NULL,
    definition TEXT NOT NULL,
    version INTEGER NOT NULL,
    status TEXT NOT NULL,
    over INTEGER NOT NULL DEFAULT 0,
    held INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    created INTEGER NOT NULL,
    ended INTEGER,
    until INTEGER,
    key TEXT,
    asked TEXT NOT NULL,
    parent TEXT,
    nominal INTEGER,
    output TEXT,
    error TEXT,
    state TEXT NOT NULL
);
CREATE INDEX flow_run_over ON flow_run (number) WHERE over = 1;
CREATE UNIQUE INDEX flow_run_key ON flow_run (workflow, key) WHERE key IS NOT NULL;
CREATE INDEX flow_run_of_key ON flow_run (key) WHERE key IS NOT NULL;
CREATE UNIQUE INDEX flow_run_nominal ON flow_run (workflow, nominal) WHERE nominal IS NOT NULL;
CREATE INDEX flow_run_open ON flow_run (workflow) WHERE over = 0;
CREATE INDEX flow_run_until ON flow_run (until) WHERE until IS NOT NULL;
CREATE TABLE flow_attempt (
    run TEXT NOT NULL, barrier TEXT NOT NULL, attempt INTEGER NOT NULL, began INTEGER NOT NULL, ended INTEGER, outcome TEXT,
    words TEXT, output TEXT, PRIMARY KEY (run, barrier, attempt)
) WITHOUT ROWID;
CREATE TABLE flow_schedule (workflow TEXT PRIMARY KEY, pattern TEXT NOT NULL, watermark INTEGER NOT NULL) WITHOUT ROWID;
"];
