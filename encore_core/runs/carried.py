"""A run in a folder of its own, to be carried to another machine and back.

    FOLDER/runs.sqlite               a store that holds this run, or a few
    FOLDER/<run id>/facts.jsonl      its facts
    FOLDER/<run id>/state-*.safetensors, edited.safetensors    its newest state, or its result

`pack` makes such a folder, in which any worker can go on with the run; `take_in` brings back what was done there. A run
in two places is known by its id and by all that decides what it does (`identity`). Rows are keyed by run and place, and
those from the saved state on are replaced in one transaction, after the state is on disk. So nothing is lost, and
nothing is there twice, whatever is repeated or killed. Times of the other machine are kept, and never compared.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encore_core.errors import InputError, quoted
from encore_core.runs.database import Database, StoreError, as_json, transaction
from encore_core.runs.facts_file import facts_of
from encore_core.runs.folders import facts_file, run_folder
from encore_core.runs.lookup import get
from encore_core.runs.ownership import LostRun
from encore_core.runs.plan import RunPlan
from encore_core.runs.resume_state import adopt_matrices, adopt_state, remove_others
from encore_core.runs.rows import Claim, RunInfo, SavedState
from encore_core.runs.schema import BY_EDITS, END_AT
from encore_core.runs.store import RunStore
from encore_core.storage import replacing, writing

SERIES = tuple(table for table in BY_EDITS if table != "states")

OF_WORK = (
    "cursor", "done", "skipped", "editing_seconds", "measuring_seconds", "fingerprint", "threads", "versions",
    "code_commit", "weights_digest", "statistics_used", "start_token", "protocols",
)  # fmt: skip
"""Columns that a worker fills."""

NEW = {"owner": None, "pid": None, "host": None, "boot_id": None, "heartbeat": None, "stop": None, "error": None}
"""Columns about the process that has a run: none."""


@dataclass(frozen=True)
class TakenIn:
    """What `take_in` did with a run.

    Attributes:
        id: of the run.
        before, after: edits saved in the store before and now.
        is_done: whether the run is done now.
        is_new: whether the store did not know it.
    """

    id: str
    before: int
    after: int
    is_done: bool
    is_new: bool

    @property
    def changed(self) -> bool:
        """Whether anything was taken."""
        return self.is_new or self.after > self.before


# -- out ---------------------------------------------------------------------------------------------------------------


def pack(store: RunStore, run_id: str, folder: Path, device: str) -> None:
    """Make a folder with a run as last saved, queued, so that a worker of a device can go on with it.

    State files are not copied: they may be large, and the caller knows how they travel.

    Args:
        store: where the run is.
        run_id: its id, which it keeps.
        folder: a folder that holds no run yet; made when it is missing.
        device: whose queue it is put into.

    Raises:
        InputError: when there is no such run, or the folder cannot be written.
    """
    run = store.get(run_id)
    packed = Database(Path(folder).absolute())
    with _attached(packed, store.file) as db:
        row = _row(db, "source", run.id)
        row |= NEW | {"number": None, "device": device, "status": "queued", "queue_place": 1, "detail": "{}"}
        row |= {"done": row["cursor"], "finished": None}
        number = _insert(db, "runs", row)
        _copy_rows(db, BY_EDITS, run.number, number, "edits <= ?", (row["cursor"],))
        db.execute(END_AT, (number, row["cursor"]))
    target = facts_file(packed.folder, run.id)
    with replacing(target) as part:
        shutil.copyfile(facts_file(store.folder, run.id), part)


def snapshot(store: RunStore, folder: Path) -> Path:
    """A consistent copy of a store's database, alone in a file, while a worker writes to it.

    Args:
        store: whose.
        folder: where `runs.sqlite` is put; what was there is replaced.

    Raises:
        StoreError: when it cannot be written.
    """
    target = folder / "runs.sqlite"
    try:
        with replacing(target) as part, store.database.reading() as db:
            copy = sqlite3.connect(part)
            try:
                db.backup(copy)
                # Whoever reads the copy must not look for the worker.
                copy.execute("UPDATE runs SET status = 'interrupted', owner = NULL WHERE status = 'running'")
                copy.commit()
                copy.execute("PRAGMA journal_mode = DELETE")  # no files beside it
            finally:
                copy.close()
    except sqlite3.Error as error:
        raise StoreError(f"The store cannot be copied to {folder} ({error}); is the disk full?") from error
    return target


# -- in ----------------------------------------------------------------------------------------------------------------


def import_runs(store: RunStore, folder: Path | str) -> list[TakenIn]:
    """Take every run of a folder into a store: its rows and its newest state that is intact.

    Args:
        store: where to.
        folder: what `pack` made and a worker has worked on, or any folder of runs.

    The folder is only read.

    Returns:
        what was done with each run. A second call with the same folder changes nothing.

    Raises:
        InputError: for a folder without runs, one that is the store's own, a run that is running in either place, or
            one whose id belongs to another run in the store.
    """
    folder = Path(folder).expanduser().absolute()
    if not (folder / "runs.sqlite").is_file():
        raise InputError(
            f"{folder} holds no runs.sqlite; give a folder of runs, which --store names. What `encore runs export` "
            "writes is for other programs."
        )
    if folder.resolve() == store.folder.resolve():
        raise InputError(f"{folder} is the store itself; give another folder.")
    with tempfile.TemporaryDirectory(dir=store.folder, prefix=".import-") as copied:
        source = _copy_of(folder, Path(copied) / "as it is")
        runs = source.runs()
        for run in runs:
            if run.status == "running":
                raise InputError(f"Run {run.id} in {folder} is running; import it when it has ended.")
        snapshot(source, Path(copied))
        return [take_in(store, Path(copied), run.id, files=folder) for run in reversed(runs)]


def _copy_of(folder: Path, place: Path) -> RunStore:
    """A copy of a folder's database, brought up to date. The folder itself may be of an earlier version and read-only.

    Raises:
        StoreError: when it is damaged, or of a newer version.
        WriteError: when there is no room for it.
    """
    with writing(place):
        place.mkdir()
        for name in ("runs.sqlite", "runs.sqlite-wal"):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, place / name)
    return RunStore(place)


def take_in(
    store: RunStore,
    folder: Path,
    run_id: str,
    claim: Claim | None = None,
    files: Path | None = None,
    move: bool = False,
) -> TakenIn:
    """Bring what was done with a run elsewhere into a store, if it is more than what the store has.

    Args:
        store: where to.
        folder: with `runs.sqlite`, see `snapshot`.
        run_id: the run.
        claim: the caller's right to it; without one the run must not be running.
        files: the folder with the run's folder, if it is another one.
        move: take the files instead of copying them; they must be on the store's file system.

    Raises:
        LostRun: when the run is no longer the caller's.
        InputError: when the folder's run is another one with the same id, or the run is running.
        DiskFull: when there is no room. The store is as it was.
    """
    source, files = Database(folder, read_only=True), files or folder
    theirs, ours = get(source, run_id), _known(store, run_id)
    is_new = ours is None
    if is_new:
        _check_facts(files, theirs)
        _add(store, source, files, theirs)
        ours = store.get(run_id)
    _check_same(ours, theirs, files)
    if claim is None and ours.status == "running":
        raise InputError(f"Run {run_id} is running here; cancel it, or let it end, before it is imported.")
    place, own = run_folder(files, run_id), store.folder_of(run_id)
    after, is_done = ours.cursor, ours.status == "done"
    if is_done:
        pass
    elif theirs.status == "done" and adopt_matrices(place, own, theirs.weights_digest or "", move):
        _merge(store, source, ours, theirs, None, claim)
        after, is_done = theirs.cursor, True
    else:
        newer = (state for state in _states(source, theirs) if state.edits > ours.cursor)
        state = next((state for state in newer if adopt_state(place, own, state, move)), None)
        if state is not None or ours.cursor in _measured(source, theirs) - store.measured(run_id):
            _merge(store, source, ours, theirs, state or SavedState(ours.cursor, "", ""), claim)
            after = max(ours.cursor, state.edits if state else 0)
        if after > ours.cursor:
            remove_others(own, [kept.file for kept in store.states(run_id)])
    return TakenIn(run_id, ours.cursor, after, is_done, is_new)


def _merge(
    store: RunStore, source: Database, ours: RunInfo, theirs: RunInfo, state: SavedState | None, claim: Claim | None
) -> None:
    """Replace the rows from our saved state on by theirs, and move the cursor. One transaction.

    Rows at the saved state itself are among them: a state is saved before it is measured.

    Args:
        store, claim: as for `take_in`.
        source: the database with their rows.
        ours, theirs: the run here and there.
        state: the state that was adopted; one without a file where ours is only measured; None for a run that is done.
    """
    with _attached(store.database, source.file) as db:
        owner, status = db.execute("SELECT owner, status FROM runs WHERE number = ?", (ours.number,)).fetchone()
        if claim is not None and owner != claim.owner:
            raise LostRun(claim.id)
        if claim is None and status == "running":
            raise InputError(f"Run {ours.id} has been started here; cancel it before it is imported.")
        row = _row(db, "source", theirs.id)
        for table in SERIES:
            db.execute(f"DELETE FROM {table} WHERE run = ? AND edits >= ?", (ours.number, ours.cursor))
        _copy_rows(db, SERIES, theirs.number, ours.number, "edits >= ?", (ours.cursor,))
        values = {name: row[name] for name in OF_WORK if state is None or name != "weights_digest"}
        values |= {"cursor": row["cursor"] if state is None else state.edits, "started": ours.started or row["started"]}
        if state is None:
            values |= {"status": "done", "error": None, "stop": None, "owner": None, "queue_place": None}
            values |= {"finished": time.time(), "detail": "{}"}
            db.execute("DELETE FROM states WHERE run = ?", (ours.number,))
        elif state.file:
            db.execute("DELETE FROM states WHERE run = ?", (ours.number,))
            db.execute("INSERT INTO states VALUES (?, ?, ?, ?)", (ours.number, state.edits, state.file, state.digest))
        marks = ", ".join(f"{name} = ?" for name in values)
        db.execute(f"UPDATE runs SET {marks} WHERE number = ?", (*values.values(), ours.number))
    if state is None:
        remove_others(store.folder_of(ours.id), ())


def _add(store: RunStore, source: Database, files: Path, theirs: RunInfo) -> None:
    """Make a run that the store does not know, with nothing done, interrupted."""
    with replacing(facts_file(store.folder, theirs.id)) as part:
        shutil.copyfile(facts_file(files, theirs.id), part)
    with _attached(store.database, source.file) as db:
        row = _row(db, "source", theirs.id) | NEW
        row |= {"number": None, "status": "interrupted", "queue_place": None, "detail": "{}", "weights_digest": None}
        row |= dict.fromkeys(("cursor", "done", "skipped", "editing_seconds", "measuring_seconds"), 0)
        _insert(db, "runs", row)


def _known(store: RunStore, run_id: str) -> RunInfo | None:
    with store.database.reading() as db:
        found = db.execute("SELECT 1 FROM runs WHERE id = ?", (run_id,)).fetchone()
    return store.get(run_id) if found else None


def _check_same(ours: RunInfo, theirs: RunInfo, files: Path) -> None:
    """Refuse another run that has the same id."""
    differing = [name for name, one in identity(ours).items() if one != identity(theirs)[name]]
    if differing:
        raise InputError(
            f"Run {quoted(theirs.id)} in {files} is another run than the one of this name in the store: they differ "
            f"in {', '.join(differing)}. Import it into a store of its own (--store)."
        )


def identity(run: RunInfo) -> dict[str, Any]:
    """What decides what a run does, by name, as JSON values: equal for the same run on two machines."""
    # The name is for people, and a device may have another name there.
    plan = {name: value for name, value in _whole(run.plan_json).items() if name not in ("name", "device")}
    return {
        "plan": json.dumps(plan, sort_keys=True),
        "settings": json.dumps(dict(run.settings), sort_keys=True),
        "facts": run.order_digest,
    }


def _whole(plan: Mapping[str, Any]) -> Mapping[str, Any]:
    """A plan's fields with those that the program which wrote it did not know yet."""
    try:
        return json.loads(as_json(RunPlan.from_json(plan).to_json()))
    except InputError:  # a later program wrote it
        return plan


def _check_facts(folder: Path, run: RunInfo) -> None:
    """Refuse a folder without the facts that its run was started with."""
    facts_of(run, facts_file(folder, run.id))


def _measured(database: Database, run: RunInfo) -> set[int]:
    with database.reading() as db:
        return {row[0] for row in db.execute("SELECT edits FROM checkpoints WHERE run = ?", (run.number,))}


def _states(database: Database, run: RunInfo) -> Sequence[SavedState]:
    """Saved states, the newest first."""
    with database.reading() as db:
        sql = "SELECT edits, file, digest FROM states WHERE run = ? ORDER BY edits DESC"
        return [SavedState(*row) for row in db.execute(sql, (run.number,))]


# -- rows between two databases ----------------------------------------------------------------------------------------


@contextmanager
def _attached(database: Database, source: Path) -> Iterator[sqlite3.Connection]:
    """A transaction on a database that sees another as `source`; all or nothing."""
    with database.reading() as db:
        db.execute("ATTACH ? AS source", (str(source),))
        with transaction(db):
            yield db


def _row(db: sqlite3.Connection, schema: str, run_id: str) -> dict[str, Any]:
    return dict(db.execute(f"SELECT * FROM {schema}.runs WHERE id = ?", (run_id,)).fetchone())


def _insert(db: sqlite3.Connection, table: str, row: dict[str, Any]) -> int:
    marks = ", ".join("?" * len(row))
    return db.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", list(row.values())).lastrowid


def _copy_rows(
    db: sqlite3.Connection, tables: Sequence[str], theirs: int, ours: int, where: str, values: Sequence[int]
) -> None:
    """Copy a run's rows from `source`. By name, because columns that were added later have another order there."""
    for table in tables:
        columns = [column[1] for column in db.execute(f"PRAGMA main.table_info({table})") if column[1] != "run"]
        names = ", ".join(columns)
        db.execute(
            f"INSERT INTO main.{table} (run, {names}) SELECT ?, {names} FROM source.{table} WHERE run = ? AND {where}",
            (ours, theirs, *values),
        )
