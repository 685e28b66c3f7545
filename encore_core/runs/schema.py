"""The tables of the store. Series rows are keyed by run and place, so that none can occur twice."""

from __future__ import annotations

import sqlite3

SCHEMA_VERSION = 3

LATER_COLUMNS = {
    2: {"runs": ("statistics_wanted TEXT", "statistics_used TEXT", "start_token TEXT")},
    3: {
        "runs": ("protocols TEXT",),
        "scores": ("n INTEGER", "low REAL", "high REAL"),
        "downstream": ("n INTEGER", "low REAL", "high REAL"),
    },
}
"""Version of stores → what it added to tables. The recorded runs are in a store of an earlier version, which is never
written, so whatever reads must do without."""

SCHEMA = """
CREATE TABLE runs (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    tags TEXT NOT NULL DEFAULT '[]',
    created REAL NOT NULL,
    plan TEXT NOT NULL,
    settings TEXT NOT NULL,
    notices TEXT NOT NULL,
    facts_digest TEXT NOT NULL,
    order_digest TEXT NOT NULL,
    statistics TEXT NOT NULL,
    device TEXT NOT NULL,
    n_edits INTEGER NOT NULL,
    status TEXT NOT NULL,
    queue_place INTEGER,
    stop TEXT,
    error TEXT,
    cursor INTEGER NOT NULL DEFAULT 0,
    done INTEGER NOT NULL DEFAULT 0,
    skipped INTEGER NOT NULL DEFAULT 0,
    editing_seconds REAL NOT NULL DEFAULT 0,
    measuring_seconds REAL NOT NULL DEFAULT 0,
    owner TEXT,
    pid INTEGER,
    host TEXT,
    boot_id TEXT,
    heartbeat REAL,
    detail TEXT NOT NULL DEFAULT '{}',
    started REAL,
    finished REAL,
    fingerprint TEXT,
    threads INTEGER,
    versions TEXT,
    code_commit TEXT,
    weights_digest TEXT,
    statistics_wanted TEXT,
    statistics_used TEXT,
    start_token TEXT,
    protocols TEXT
);
CREATE INDEX runs_by_status ON runs (status, queue_place);
CREATE TABLE batches (
    run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
    edits INTEGER NOT NULL, facts INTEGER NOT NULL, skipped INTEGER NOT NULL,
    resident_bytes INTEGER, peak_bytes INTEGER, device_peak_bytes INTEGER,
    PRIMARY KEY (run, edits)
) WITHOUT ROWID;
CREATE TABLE timings (
    run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
    edits INTEGER NOT NULL, phase TEXT NOT NULL, seconds REAL NOT NULL,
    PRIMARY KEY (run, edits, phase)
) WITHOUT ROWID;
CREATE TABLE targets (
    run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
    fact INTEGER NOT NULL, edits INTEGER NOT NULL, steps INTEGER NOT NULL, stopped TEXT NOT NULL,
    loss REAL, nll REAL, kl REAL, decay REAL, probability REAL, probability_before REAL,
    PRIMARY KEY (run, fact)
) WITHOUT ROWID;
CREATE TABLE trajectories (
    run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
    fact INTEGER NOT NULL, step INTEGER NOT NULL, edits INTEGER NOT NULL,
    loss REAL, nll REAL, kl REAL, decay REAL, probability REAL,
    PRIMARY KEY (run, fact, step)
) WITHOUT ROWID;
CREATE TABLE checkpoints (
    run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
    edits INTEGER NOT NULL, left_out TEXT NOT NULL,
    PRIMARY KEY (run, edits)
) WITHOUT ROWID;
CREATE TABLE measuring (
    run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
    edits INTEGER NOT NULL, part TEXT NOT NULL, seconds REAL NOT NULL,
    PRIMARY KEY (run, edits, part)
) WITHOUT ROWID;
CREATE TABLE norms (
    run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
    edits INTEGER NOT NULL, layer INTEGER NOT NULL, norm REAL, ratio REAL,
    PRIMARY KEY (run, edits, layer)
) WITHOUT ROWID;
CREATE TABLE scores (
    run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
    edits INTEGER NOT NULL, subset TEXT NOT NULL, metric TEXT NOT NULL, value REAL,
    n INTEGER, low REAL, high REAL,
    PRIMARY KEY (run, edits, subset, metric)
) WITHOUT ROWID;
CREATE TABLE contributions (
    run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
    edits INTEGER NOT NULL, sublayer INTEGER NOT NULL, label TEXT NOT NULL, kind TEXT NOT NULL, layer INTEGER,
    share REAL, signed_share REAL,
    PRIMARY KEY (run, edits, sublayer)
) WITHOUT ROWID;
CREATE TABLE measures (
    run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
    edits INTEGER NOT NULL, metric TEXT NOT NULL, value REAL,
    PRIMARY KEY (run, edits, metric)
) WITHOUT ROWID;
CREATE TABLE downstream (
    run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
    edits INTEGER NOT NULL, task TEXT NOT NULL, metric TEXT NOT NULL, value REAL,
    n INTEGER, low REAL, high REAL,
    PRIMARY KEY (run, edits, task, metric)
) WITHOUT ROWID;
CREATE TABLE states (
    run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
    edits INTEGER NOT NULL, file TEXT NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY (run, edits)
) WITHOUT ROWID;
"""

LATER_TABLES = """
CREATE TABLE scored (
    run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
    edits INTEGER NOT NULL, subset TEXT NOT NULL, fact INTEGER NOT NULL,
    PRIMARY KEY (run, edits, subset, fact)
) WITHOUT ROWID;
CREATE TABLE fact_scores (
    run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
    edits INTEGER NOT NULL, fact INTEGER NOT NULL, metric TEXT NOT NULL, value REAL,
    PRIMARY KEY (run, edits, fact, metric)
) WITHOUT ROWID;
CREATE TABLE answers (
    run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
    edits INTEGER NOT NULL, fact INTEGER NOT NULL, number INTEGER NOT NULL, part TEXT NOT NULL, kind TEXT,
    prompt TEXT NOT NULL, answers TEXT NOT NULL, text TEXT NOT NULL, ended TEXT NOT NULL,
    exact INTEGER NOT NULL, contained INTEGER NOT NULL, judged INTEGER, unjudged TEXT NOT NULL,
    PRIMARY KEY (run, edits, fact, number)
) WITHOUT ROWID;
CREATE TABLE task_answers (
    run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
    edits INTEGER NOT NULL, task TEXT NOT NULL, test INTEGER NOT NULL, truth TEXT NOT NULL, said TEXT, likelier TEXT,
    PRIMARY KEY (run, edits, task, test)
) WITHOUT ROWID;
"""
"""Tables of version 3: which facts are in a subset, their scores and the answers generated for them, and the answers to
the tests of the downstream tasks. From these intervals, and differences between runs, can be computed again."""

SINCE = dict.fromkeys(("scored", "fact_scores", "answers", "task_answers"), 3)
"""Table → the version of stores since which it is there, for those that were not always."""

BY_EDITS = (
    "batches", "timings", "targets", "trajectories", "checkpoints", "measuring", "norms", "scores", "contributions",
    "measures", "downstream", "scored", "fact_scores", "answers", "task_answers", "states",
)  # fmt: skip
"""Tables whose rows belong to a number of edits, and are deleted when the run goes back to fewer."""

END_AT = """
UPDATE runs SET cursor = ?2, done = ?2,
    skipped = (SELECT coalesce(sum(skipped), 0) FROM batches WHERE run = ?1),
    editing_seconds = (SELECT coalesce(sum(seconds), 0) FROM timings WHERE run = ?1),
    measuring_seconds = (SELECT coalesce(sum(seconds), 0) FROM measuring WHERE run = ?1)
WHERE number = ?1
"""
"""Corrects a run's own row after its series were cut. Values: its number, and the edits after which no rows remain."""


def bring_up_to_date(db: sqlite3.Connection) -> None:
    """Make the tables of a new store, or add what an earlier version lacks. Only one process may do this at a time."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == SCHEMA_VERSION:
        return
    db.executescript(f"BEGIN; {_steps(version)} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")


def _steps(version: int) -> str:
    """The statements that bring a store of a version up to date; 0 is a new one."""
    if version == 0:
        return SCHEMA + LATER_TABLES
    added = [
        f"ALTER TABLE {table} ADD COLUMN {column};"
        for since, tables in LATER_COLUMNS.items()
        if since > version
        for table, columns in tables.items()
        for column in columns
    ]
    return " ".join(added) + (LATER_TABLES if version < 3 else "")


def later(table: str, version: int) -> list[str]:
    """The names of columns that a table of a store of this version does not have yet."""
    added = (tables.get(table, ()) for since, tables in LATER_COLUMNS.items() if since > version)
    return [column.split()[0] for columns in added for column in columns]
