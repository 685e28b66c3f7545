"""A run belongs to the worker that has taken it: taking it, signs of life, and releasing it.

A process that writes to a run presents its claim, and the transaction checks that the run is still its own.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from encore_core import processes
from encore_core.runs.database import Database, as_json
from encore_core.runs.rows import Claim


class LostRun(Exception):
    """A worker writes to a run that is no longer its own."""


def claim(database: Database, device: str) -> Claim | None:
    """Take the next queued run of a device; None when there is none. The caller holds the device's lock."""
    owner = secrets.token_hex(8)
    with database.writing() as db:
        row = db.execute(
            """UPDATE runs SET status = 'running', queue_place = NULL, stop = NULL, error = NULL, owner = ?,
                   pid = ?, host = ?, boot_id = ?, heartbeat = ?, started = coalesce(started, ?), finished = NULL,
                   detail = '{}'
               WHERE number = (SELECT number FROM runs WHERE status = 'queued' AND device = ?
                               ORDER BY queue_place LIMIT 1)
               RETURNING number, id""",
            (owner, os.getpid(), processes.host(), processes.boot_id(), time.time(), time.time(), device),
        ).fetchone()
    return Claim(row["number"], row["id"], owner) if row else None


@contextmanager
def owned(database: Database, claim: Claim) -> Iterator[sqlite3.Connection]:
    """A transaction on a run that is still the caller's."""
    with database.writing() as db:
        row = db.execute("SELECT owner FROM runs WHERE number = ?", (claim.number,)).fetchone()
        if row is None or row["owner"] != claim.owner:
            raise LostRun(claim.id)
        yield db


def beat(database: Database, claim: Claim, detail: Mapping[str, Any]) -> str | None:
    """Record that the run is alive and what it does. Returns "cancel" or "interrupt" when it must stop.

    Raises:
        LostRun: when the run is no longer the caller's.
    """
    with database.writing() as db:
        row = db.execute(
            "UPDATE runs SET heartbeat = ?, detail = ? WHERE number = ? AND owner = ? RETURNING stop",
            (time.time(), as_json(detail), claim.number, claim.owner),
        ).fetchone()
    if row is None:
        raise LostRun(claim.id)
    return row["stop"]


def note(database: Database, claim: Claim, **columns: Any) -> None:
    """Record facts about the run's process: fingerprint, threads, versions, code_commit, statistics_used,
    protocols.

    Raises:
        LostRun: when the run is no longer the caller's.
    """
    assignments = ", ".join(f"{name} = ?" for name in columns)
    values = [as_json(value) if isinstance(value, Mapping | list | tuple) else value for value in columns.values()]
    with owned(database, claim) as db:
        db.execute(f"UPDATE runs SET {assignments} WHERE number = ?", (*values, claim.number))


def finish(
    database: Database, claim: Claim, status: str, error: str | None = None, weights_digest: str | None = None
) -> None:
    """Release a run.

    Args:
        claim: the caller's right to it.
        status: how it ended.
        error: one line, when something went wrong.
        weights_digest: of the edited matrices, when it is done; its saved states are then no longer needed.

    Raises:
        LostRun: when the run is no longer the caller's.
    """
    with owned(database, claim) as db:
        db.execute(
            """UPDATE runs SET status = ?, error = ?, stop = NULL, owner = NULL, finished = ?, heartbeat = ?,
                   detail = '{}', weights_digest = ? WHERE number = ?""",
            (status, error, time.time(), time.time(), weights_digest, claim.number),
        )
        if status == "done":
            db.execute("DELETE FROM states WHERE run = ?", (claim.number,))
