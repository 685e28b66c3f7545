"""Recorded runs: a store that comes with the program, so that there are curves before anybody has run anything.

    assets/recorded/
        runs.sqlite          the runs and their series; opened without locks, never written
        facts-<digest>.jsonl the facts of runs on facts that come with the program, once for all that have the same
        README.md, make.py   how they were made, and the script that makes them again

Their ids are fixed ("recorded-encore-1000"), so that a link to them works wherever the program runs.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from encore_core.errors import InputError
from encore_core.facts.source import SETS
from encore_core.resources import ASSETS
from encore_core.runs.folders import facts_file, recorded_facts_file
from encore_core.runs.rows import RunInfo
from encore_core.runs.schema import BY_EDITS, END_AT, bring_up_to_date
from encore_core.runs.store import RunStore
from encore_core.storage import replacing

RECORDED = ASSETS / "recorded"
NOT_KEPT = ("states",)
FORGOTTEN = {"owner": None, "pid": None, "host": None, "boot_id": None, "heartbeat": None, "stop": None}
"""Columns of a run about its machine and process."""


def recorded_runs() -> RunStore | None:
    """The recorded runs, or None where the program comes without any.

    Raises:
        StoreError: when they cannot be read.
    """
    return RunStore(RECORDED, read_only=True) if (RECORDED / "runs.sqlite").exists() else None


def record(store: RunStore, names: Mapping[str, str], folder: Path) -> list[str]:
    """Put runs that have ended into the recorded store, replacing those with the same ids.

    A run that was stopped is recorded up to its last checkpoint, so that it ends with everything measured.

    Args:
        store: where they are.
        names: run id → its id in the recorded store.
        folder: of the recorded store.

    Returns:
        the new ids.

    Raises:
        InputError: for runs that are not there, have not ended, or were stopped before their first batch was measured.
    """
    runs = {run_id: store.get(run_id) for run_id in names}
    ends = {run.id: _end(store, run) for run in runs.values()}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "runs.sqlite"
    with replacing(file) as part:
        if file.exists():
            shutil.copyfile(file, part)
        db = sqlite3.connect(part, isolation_level=None)
        try:
            # A file that is opened as immutable must have no write-ahead log beside it.
            db.execute("PRAGMA journal_mode = DELETE")
            db.execute("PRAGMA foreign_keys = ON")
            bring_up_to_date(db)
            db.execute("ATTACH ? AS source", (str(store.file),))
            for run_id, new_id in names.items():
                db.execute("BEGIN")
                _copy(db, runs[run_id], new_id, ends[run_id])
                db.execute("COMMIT")
                _copy_facts(store, runs[run_id], folder)
            db.execute("DETACH source")
            db.execute("VACUUM")
        finally:
            db.close()
    return list(names.values())


def _end(store: RunStore, run: RunInfo) -> int:
    """The number of edits at which the recording of a run ends."""
    if not run.ended:
        raise InputError(f"Run {run.id} is {run.status}; only a run that has ended can be recorded.")
    end = run.done if run.status == "done" else max(store.measured(run.id), default=0)
    if not end:
        raise InputError(f"Run {run.id} is {run.status} and nothing was measured after its first batch.")
    return end


def _copy(db: sqlite3.Connection, run: RunInfo, new_id: str, end: int) -> None:
    """Copy a run's row and series up to `end` edits, without what identifies the machine."""
    db.execute("DELETE FROM runs WHERE id = ?", (new_id,))
    # By name, because columns that were added later have another order than in a store made with them.
    found = db.execute("SELECT * FROM source.runs WHERE number = ?", (run.number,))
    row = dict(zip([column[0] for column in found.description], found.fetchone(), strict=True))
    row |= {"number": None, "id": new_id, "plan": json.dumps(_shown_plan(run.plan_json)), "detail": "{}", **FORGOTTEN}
    marks = ", ".join("?" * len(row))
    number = db.execute(f"INSERT INTO runs ({', '.join(row)}) VALUES ({marks})", list(row.values())).lastrowid
    # Generated answers hold the prompts of the facts.
    left_out = NOT_KEPT if run.plan_json["facts"] in SETS else (*NOT_KEPT, "answers")
    for table in BY_EDITS:
        if table not in left_out:
            columns = [column[1] for column in db.execute(f"PRAGMA table_info({table})") if column[1] != "run"]
            names = ", ".join(columns)
            db.execute(
                f"INSERT INTO {table} (run, {names}) "
                f"SELECT ?, {names} FROM source.{table} WHERE run = ? AND edits <= ?",
                (number, run.number, end),
            )
    db.execute(END_AT, (number, end))


def _shown_plan(plan: Mapping[str, Any]) -> dict[str, Any]:
    """A plan with only the names of its files, because the folders of one machine mean nothing on another; nor does its
    judge, who is named in the run's protocols."""

    def named(path: str | None) -> str | None:
        return path and Path(path).name

    measure = dict(plan["measure"])
    return dict(plan) | {
        "facts": named(plan["facts"]),
        "statistics_text": named(plan["statistics_text"]),
        "measure": measure | {"downstream": named(measure["downstream"]), "judge": None, "judge_model": None},
    }


def _copy_facts(store: RunStore, run: RunInfo, folder: Path) -> None:
    """Copy the facts where they are the program's own."""
    if run.plan_json["facts"] in SETS:
        shutil.copyfile(facts_file(store.folder, run.id), recorded_facts_file(folder, run.order_digest))
