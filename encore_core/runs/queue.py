"""The queue: runs are added, asked to stop, put back and deleted.

Status is compared and set in one transaction, so that only one of two competing processes succeeds. How a worker
takes a run from the queue is in `ownership`.
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Sequence

from encore_core.errors import InputError
from encore_core.runs.database import Database, StoreError, as_json
from encore_core.runs.facts_file import fact_lines
from encore_core.runs.folders import facts_file, run_folder, slug
from encore_core.runs.labels import checked_tags
from encore_core.runs.lookup import get
from encore_core.runs.preparing import PreparedRun
from encore_core.runs.rows import RESUMABLE, RunInfo
from encore_core.storage import replacing

_ID_LETTERS = "23456789abcdefghjkmnpqrstvwxyz"  # without letters that look alike


def submit(
    database: Database, runs: Sequence[PreparedRun], tags: Sequence[str] = (), queue: str | None = None
) -> list[str]:
    """Put runs at the end of the queue: all of them or none.

    Args:
        runs: what `preparing.prepare` gave.
        tags: of all of them.
        queue: the queue, if not that of the plan's device: "ray:" and the name of a cluster's, see `launch`.

    Returns:
        their ids, in order. A worker takes them once one is running, see `launch.start_worker`.

    Raises:
        StoreError: when they cannot be written.
        InputError: for a tag that cannot be used.
    """
    marked = as_json(checked_tags(tags))
    ids: list[str] = []
    try:
        for run in runs:
            # On failure only folders made here are removed.
            ids.append(_new_folder(database, run.plan.method))
            with replacing(facts_file(database.folder, ids[-1])) as part:
                part.write_text("".join(fact_lines(run.facts)), encoding="utf-8", newline="\n")
        with database.writing() as db:
            (last,) = db.execute("SELECT max(queue_place) FROM runs").fetchone()
            for place, (run_id, run) in enumerate(zip(ids, runs, strict=True), (last or 0) + 1):
                db.execute(
                    """INSERT INTO runs (id, name, tags, created, plan, settings, notices, facts_digest, order_digest,
                           statistics, statistics_wanted, device, n_edits, status, queue_place)
                       VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'queued', ?)""",
                    (run_id, run.plan.name, marked, time.time(), as_json(run.plan.to_json()),
                     as_json(vars(run.settings)), as_json(run.notices), run.facts_digest, run.order_digest,
                     run.statistics, as_json(run.statistics_wanted), queue or run.plan.device, run.plan.n_edits, place),
                )  # fmt: skip
    except BaseException as error:
        for run_id in ids:
            shutil.rmtree(run_folder(database.folder, run_id), ignore_errors=True)
        if isinstance(error, OSError):
            raise StoreError(f"The run cannot be written to {database.folder}: {error.strerror or error}.") from error
        raise
    return ids


def _new_folder(database: Database, method: str) -> str:
    """Draw an unused id, and make its folder. Making it decides between processes that draw the same id."""
    while True:
        run_id = f"{slug(method)}-{''.join(secrets.choice(_ID_LETTERS) for _ in range(4))}"
        with database.reading() as db:
            # A run whose folder was removed by hand still has its row.
            if db.execute("SELECT 1 FROM runs WHERE id = ?", (run_id,)).fetchone():
                continue
        try:
            run_folder(database.folder, run_id).mkdir(exist_ok=False)
        except FileExistsError:
            continue
        return run_id


def cancel(database: Database, run_id: str) -> RunInfo:
    """Take a run out of the queue, or ask its worker to stop it (which it does within a batch).

    Raises:
        InputError: when it has already ended.
    """
    return _ask_to_stop(database, run_id, "cancel", "cancelled")


def interrupt(database: Database, run_id: str) -> RunInfo:
    """Like `cancel`, but the run is then interrupted: meant to be resumed.

    Raises:
        InputError: when it has already ended.
    """
    return _ask_to_stop(database, run_id, "interrupt", "interrupted")


def _ask_to_stop(database: Database, run_id: str, stop: str, status: str) -> RunInfo:
    run = get(database, run_id)
    waiting = ("queued", "interrupted") if stop == "cancel" else ("queued",)
    with database.writing() as db:
        marks = ", ".join("?" * len(waiting))
        found = db.execute(
            f"""UPDATE runs SET status = ?, queue_place = NULL, finished = ?
                WHERE id = ? AND status IN ({marks}) RETURNING id""",
            (status, time.time(), run.id, *waiting),
        ).fetchall()
        if not found:
            found = db.execute(
                "UPDATE runs SET stop = ? WHERE id = ? AND status = 'running' RETURNING id", (stop, run.id)
            ).fetchall()
    now = get(database, run_id)
    if not found:
        raise InputError(f"Run {run.id} is {now.status}, so there is nothing to stop.")
    return now


def resume(database: Database, run_id: str) -> RunInfo:
    """Put a run that was interrupted, cancelled or has failed back at the end of the queue; one in it keeps its place.

    Raises:
        InputError: when it has another status.
    """
    run = get(database, run_id)
    if run.status == "queued":
        return run
    with database.writing() as db:
        marks = ", ".join("?" * len(RESUMABLE))
        found = db.execute(
            f"""UPDATE runs SET status = 'queued', stop = NULL, error = NULL, finished = NULL, detail = '{{}}',
                    queue_place = (SELECT coalesce(max(queue_place), 0) + 1 FROM runs)
                WHERE id = ? AND status IN ({marks}) RETURNING id""",
            (run.id, *RESUMABLE),
        ).fetchall()
    now = get(database, run_id)
    if not found:
        check_resumable(now)
    return now


def check_resumable(run: RunInfo) -> None:
    """Refuse a run that cannot be put back into the queue and is not in it.

    Raises:
        InputError: saying what it is.
    """
    if run.status not in ("queued", *RESUMABLE):
        raise InputError(f"Run {run.id} is {run.status}; only a run that is {_any_of(RESUMABLE)} can be resumed.")


def delete(database: Database, run_id: str) -> None:
    """Delete a run, its series and its files.

    Raises:
        InputError: while it is running.
    """
    run = get(database, run_id)
    with database.writing() as db:
        gone = db.execute("DELETE FROM runs WHERE id = ? AND status != 'running' RETURNING id", (run.id,)).fetchall()
    if not gone:
        raise InputError(f"Run {run.id} is running; cancel it first, then delete it.")
    shutil.rmtree(run_folder(database.folder, run.id), ignore_errors=True)


def _any_of(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
