"""Which workers live, and runs whose worker is gone.

A worker holds the lock of its device from before it takes a run until it ends, and the system frees the lock of a
process that dies in whatever way. So whoever gets the lock knows that no run of the device is running.
"""

from __future__ import annotations

import logging
import sqlite3
import time

from filelock import Timeout

from encore_core import processes
from encore_core.runs.database import Database, lock_errors_told
from encore_core.runs.folders import device_lock

log = logging.getLogger(__name__)

SILENT_SECONDS = 15.0
"""A running run that has not been heard of for so long is looked at: its worker may be gone."""

FOREIGN_SILENT_SECONDS = 600.0
"""The same for a run of another machine on a shared folder, whose lock may not be visible from here."""


def has_worker(database: Database, device: str) -> bool:
    """Whether a worker of the device lives. (It may be about to end, see `launch.start_worker`.)

    Raises:
        StoreError: when the lock's file cannot be written.
    """
    lock = device_lock(database.folder, device)
    try:
        with lock_errors_told(database.folder):
            lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def seems_dead(row: sqlite3.Row) -> bool:
    """Whether a running run's worker should be looked for."""
    if row["status"] != "running":
        return False
    if time.time() - row["heartbeat"] > SILENT_SECONDS:
        return True
    return row["host"] == processes.host() and (
        row["boot_id"] != processes.boot_id() or not processes.is_alive(row["pid"])
    )


def reconcile(database: Database) -> list[str]:
    """Mark runs as interrupted whose worker was killed, or whose machine has restarted.

    Returns:
        ids of the runs marked.
    """
    with database.reading() as db:
        devices = [row[0] for row in db.execute("SELECT DISTINCT device FROM runs WHERE status = 'running'")]
    marked: list[str] = []
    for device in devices:
        lock = device_lock(database.folder, device)
        try:
            lock.acquire(timeout=0)
        except OSError:  # Timeout is one: a worker lives, or the folder is read-only and nobody can say
            continue
        try:
            marked += abandon(database, device)
        finally:
            lock.release()
    return marked


def abandon(database: Database, device: str) -> list[str]:
    """Mark the runs of a device that are still called running. The caller holds the device's lock, so none is.

    Returns:
        their ids.
    """
    with database.writing() as db:
        rows = db.execute(
            """UPDATE runs SET owner = NULL, stop = NULL, finished = heartbeat,
                   status = CASE stop WHEN 'cancel' THEN 'cancelled' ELSE 'interrupted' END,
                   error = 'The worker ended in the middle (it was killed, or the machine restarted); '
                           || CASE stop WHEN 'cancel' THEN cursor || ' edits were saved before it was cancelled.'
                              ELSE 'resuming goes on from ' || cursor || ' edits.' END
               WHERE status = 'running' AND device = ? AND (host = ? OR heartbeat < ?) RETURNING id, status""",
            (device, processes.host(), time.time() - FOREIGN_SILENT_SECONDS),
        ).fetchall()
    for row in rows:
        log.warning("Run %s was left running by a worker that is gone; it is %s now.", row["id"], row["status"])
    return [row["id"] for row in rows]
