CREATE TABLE events(
    id INTEGER PRIMARY KEY,
    node TEXT NOT NULL, source TEXT NOT NULL, incarnation TEXT NOT NULL, seq INTEGER NOT NULL,
    boot_id TEXT NOT NULL, boot_ns INTEGER NOT NULL, wall_ms INTEGER NOT NULL,
    subject TEXT NOT NULL, was TEXT NOT NULL, became TEXT NOT NULL, reason TEXT NOT NULL, cause TEXT, inputs TEXT NOT NULL,
    repeats INTEGER NOT NULL DEFAULT 0, last_boot_ns INTEGER NOT NULL, last_wall_ms INTEGER NOT NULL,
    incident TEXT,
    UNIQUE(node, source, incarnation, seq)
);
CREATE INDEX events_subject ON events(subject, id);
CREATE INDEX events_wall ON events(wall_ms);
CREATE INDEX events_incident ON events(incident) WHERE incident IS NOT NULL;
CREATE TABLE sources(
    node TEXT NOT NULL, source TEXT NOT NULL, incarnation TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY(node, source)
) WITHOUT ROWID;
CREATE TABLE incidents(
    number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, subject TEXT NOT NULL,
    detected_wall_ms INTEGER NOT NULL, outcome TEXT NOT NULL, body TEXT NOT NULL
);
CREATE INDEX incidents_outcome ON incidents(outcome);
CREATE INDEX incidents_detected ON incidents(detected_wall_ms);
CREATE TABLE minutes(
    service TEXT NOT NULL, minute INTEGER NOT NULL,
    good INTEGER NOT NULL, failed INTEGER NOT NULL, degraded INTEGER NOT NULL,
    ready_seconds INTEGER NOT NULL, down_seconds INTEGER NOT NULL, unknown_seconds INTEGER NOT NULL,
    PRIMARY KEY(service, minute)
) WITHOUT ROWID;
CREATE INDEX minutes_minute ON minutes(minute);
