"""Looking up runs: all of them, those with some words, or one by its id."""

from __future__ import annotations

import difflib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from encore_core.errors import InputError, quoted
from encore_core.runs.database import Database
from encore_core.runs.rows import RunInfo
from encore_core.runs.schema import later
from encore_core.runs.worker_liveness import reconcile, seems_dead


def all_runs(database: Database, search: str = "") -> list[RunInfo]:
    """All runs, the newest first.

    Runs whose worker is gone are found and marked here, so that none is ever shown as "running" that is not.

    Args:
        search: words; each must occur in the run's id, name, tags, method, model or status.
    """
    found = _select(database, "1")
    words = search.casefold().split()
    if words:
        found = [run for run in found if all(word in _searched(run) for word in words)]
    return found


def get(database: Database, run_id: str) -> RunInfo:
    """A run by its id.

    Raises:
        InputError: when there is none.
    """
    found = _select(database, "id = ?", (str(run_id),))
    if not found:
        with database.reading() as db:
            ids = [row[0] for row in db.execute("SELECT id FROM runs ORDER BY number DESC")]
        close = difflib.get_close_matches(str(run_id), ids, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "`encore runs list` shows those there are."
        raise InputError(f"There is no run {quoted(run_id)}; {hint}")
    return found[0]


def _select(database: Database, where: str, values: Sequence[Any] = ()) -> list[RunInfo]:
    def select() -> list[sqlite3.Row]:
        with database.reading() as db:
            return db.execute(
                f"""SELECT *, CASE status WHEN 'queued' THEN
                        (SELECT count(*) FROM runs AS other WHERE other.status = 'queued'
                         AND other.device = runs.device AND other.queue_place <= runs.queue_place)
                    END AS position FROM runs WHERE {where} ORDER BY number DESC""",
                values,
            ).fetchall()

    rows = select()
    if any(seems_dead(row) for row in rows) and reconcile(database):
        rows = select()
    missing = later("runs", database.version)
    return [_info({**dict.fromkeys(missing), **dict(row)}, database.read_only) for row in rows]


def _info(row: Mapping[str, Any], recorded: bool) -> RunInfo:
    plain = (
        "number", "id", "name", "created", "started", "finished", "facts_digest", "order_digest", "statistics",
        "device", "n_edits", "status", "position", "stop", "error", "cursor", "done", "skipped", "editing_seconds",
        "measuring_seconds", "pid", "host", "boot_id", "heartbeat", "fingerprint", "threads", "weights_digest",
    )  # fmt: skip
    lists = ("statistics_wanted", "statistics_used", "start_token")
    return RunInfo(
        **{name: row[name] for name in plain},
        **{name: tuple(json.loads(row[name] or "[]")) for name in lists},
        protocols=json.loads(row["protocols"] or "{}"),
        tags=tuple(json.loads(row["tags"])),
        plan_json=json.loads(row["plan"]),
        settings=json.loads(row["settings"]),
        notices=tuple(json.loads(row["notices"])),
        detail=json.loads(row["detail"]),
        versions=json.loads(row["versions"] or "{}"),
        commit=row["code_commit"],
        recorded=recorded,
    )


def _searched(run: RunInfo) -> str:
    return " ".join((run.id, run.name, *run.tags, run.method, run.model, run.status)).casefold()
