"""The store: every run, its queue and its series, in one SQLite file that any number of processes may read and write.

    <data folder>/runs/
        runs.sqlite             rows of runs, and their series
        device-<device>.lock    held by the worker of that device as long as it lives; the system frees it
        worker-<device>.log     what workers say outside a run
        <run id>/facts.jsonl    the facts of the run, in order
        <run id>/log.txt        what happened in it
        <run id>/state-*.safetensors, edited.safetensors    see `state`

A run is queued, running, interrupted, cancelled, failed or done. Status is changed by comparing and setting in one
transaction, so that of two that want it one gets it; series rows are keyed by run and place, so that none can be there
twice. What is written while a batch ends and what is written at a checkpoint are one transaction each: a process that
is killed leaves the one before or the one after. WAL mode lets readers read while a worker writes.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
import re
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from encore_core import processes
from encore_core.errors import InputError, quoted
from encore_core.facts import Fact
from encore_core.runs.facts_file import digest_of, fact_lines, facts_from_lines
from encore_core.runs.preparing import PreparedRun
from encore_core.runs.rows import RESUMABLE, BatchRecord, CheckpointRecord, Claim, RunInfo, SavedState
from encore_core.runs.schema import BY_EDITS, END_AT, LATER_COLUMNS, SCHEMA_VERSION, bring_up_to_date
from encore_core.storage import data_folder, replacing

log = logging.getLogger(__name__)

BUSY_SECONDS = 30.0
SILENT_SECONDS = 15.0
"""A running run that has not been heard of for so long is looked at: its worker may be gone."""

FOREIGN_SILENT_SECONDS = 600.0
"""The same for a run of another machine on a shared folder, whose lock may not be visible from here."""

MOST_TAGS = 20
_ID_LETTERS = "23456789abcdefghjkmnpqrstvwxyz"  # none that are mistaken for each other


class StoreError(InputError):
    """The store cannot be read or written: disk full, damaged, locked or of a newer version. One line, as ever."""


class LostRun(Exception):
    """A worker writes to a run that is no longer its own."""


class RunStore:
    """The runs in a folder. Objects are cheap and hold no connection; any thread and process may have its own.

    Args:
        folder: where the store lives; `runs` in the data folder by default. Made when it is missing.
        read_only: look at a store that never changes, see `recorded`. It must be there, and no file is made beside it.

    Raises:
        StoreError: when the folder cannot be written, or holds a damaged store or one of a newer version.
    """

    def __init__(self, folder: Path | str | None = None, read_only: bool = False):
        self.read_only = read_only
        self.folder = Path(folder).expanduser().absolute() if folder is not None else data_folder() / "runs"
        self.file = self.folder / "runs.sqlite"
        if read_only:
            self._check_version()
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"The folder of runs {self.folder} cannot be made ({error.strerror}); give one you can write to."
            ) from error
        self._make_schema()

    # -- places --------------------------------------------------------------------------------------------------------

    def folder_of(self, run_id: str) -> Path:
        """The folder of a run's files."""
        return self.folder / run_id

    def log_file(self, run_id: str) -> Path:
        return self.folder_of(run_id) / "log.txt"

    def worker_log(self, device: str) -> Path:
        return self.folder / f"worker-{_slug(device)}.log"

    def device_lock(self, device: str) -> FileLock:
        """The lock that the worker of a device holds as long as it lives."""
        return FileLock(self.folder / f"device-{_slug(device)}.lock")

    def has_worker(self, device: str) -> bool:
        """Whether a worker of the device lives. (It may be about to end, see `launch.ensure_worker`.)

        Raises:
            StoreError: when the lock's file cannot be written.
        """
        lock = self.device_lock(device)
        try:
            with self._clear_lock_errors():
                lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    @contextmanager
    def _clear_lock_errors(self) -> Iterator[None]:
        try:
            yield
        except Timeout:
            raise
        except OSError as error:
            raise StoreError(
                f"The folder of runs {self.folder} cannot be written ({error.strerror or error}); give one you can "
                "write to."
            ) from error

    def read_log(self, run_id: str, n_lines: int = 200) -> str:
        """The last lines of a run's log; empty before its start.

        Raises:
            InputError: when there is no such run.
        """
        return _tail(self.log_file(self.get(run_id).id), n_lines)

    # -- looking -------------------------------------------------------------------------------------------------------

    def runs(self, search: str = "") -> list[RunInfo]:
        """All runs, the newest first.

        Runs whose worker is gone are found here and marked, so that nobody ever sees one "running" that is not.

        Args:
            search: words; each must occur in the run's id, name, tags, method, model or status.
        """
        found = self._select("1")
        words = search.casefold().split()
        if words:
            found = [run for run in found if all(word in _searched(run) for word in words)]
        return found

    def get(self, run_id: str) -> RunInfo:
        """A run by its id.

        Raises:
            InputError: when there is none.
        """
        found = self._select("id = ?", (str(run_id),))
        if not found:
            with self._reading() as db:
                ids = [row[0] for row in db.execute("SELECT id FROM runs ORDER BY number DESC")]
            close = difflib.get_close_matches(str(run_id), ids, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "`encore runs list` shows those there are."
            raise InputError(f"There is no run {quoted(run_id)}; {hint}")
        return found[0]

    def _select(self, where: str, values: Sequence[Any] = ()) -> list[RunInfo]:
        def select() -> list[sqlite3.Row]:
            with self._reading() as db:
                return db.execute(
                    f"""SELECT *, CASE status WHEN 'queued' THEN
                            (SELECT count(*) FROM runs AS other WHERE other.status = 'queued'
                             AND other.device = runs.device AND other.queue_place <= runs.queue_place)
                        END AS position FROM runs WHERE {where} ORDER BY number DESC""",
                    values,
                ).fetchall()

        rows = select()
        if any(_seems_dead(row) for row in rows) and self.reconcile():
            rows = select()
        return [_info(row, self.read_only) for row in rows]

    def reconcile(self) -> list[str]:
        """Mark runs as interrupted whose worker was killed, or whose machine has restarted.

        A worker holds the lock of its device from before it takes a run until it ends, and the system frees the lock
        of a process that dies in whatever way. So whoever gets the lock knows that no run of the device is running.

        Returns:
            ids of the runs marked.
        """
        with self._reading() as db:
            devices = [row[0] for row in db.execute("SELECT DISTINCT device FROM runs WHERE status = 'running'")]
        marked: list[str] = []
        for device in devices:
            lock = self.device_lock(device)
            try:
                lock.acquire(timeout=0)
            except OSError:  # Timeout is one: a worker lives, or the folder is read-only and nobody can say
                continue
            try:
                marked += self.abandon(device)
            finally:
                lock.release()
        return marked

    def abandon(self, device: str) -> list[str]:
        """Mark the runs of a device that are still called running. The caller holds the device's lock, so none is.

        Returns:
            their ids.
        """
        with self._writing() as db:
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

    def facts(self, run_id: str) -> list[Fact]:
        """The facts of a run, in order.

        Raises:
            InputError: when the file is gone or is not the one the run was started with.
        """
        run, path = self.get(run_id), self.folder_of(run_id) / "facts.jsonl"
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"The facts of run {run.id} cannot be read from {path} ({reason}); put the file back, or delete the "
                "run."
            ) from error
        if digest_of(text) != run.order_digest:
            raise InputError(
                f"The facts of run {run.id} in {path} are not those it was started with; put the file back, or delete "
                "the run."
            )
        return facts_from_lines(text)

    # -- what people do ------------------------------------------------------------------------------------------------

    def submit(self, runs: Sequence[PreparedRun]) -> list[str]:
        """Put runs at the end of the queue: all of them or none.

        Args:
            runs: what `preparing.prepare` gave.

        Returns:
            their ids, in order. A worker takes them once one is running, see `launch.ensure_worker`.

        Raises:
            StoreError: when they cannot be written.
        """
        ids: list[str] = []
        try:
            for run in runs:
                # Only a folder that was made here is removed here when something goes wrong.
                ids.append(self._new_folder(run.plan.method))
                with replacing(self.folder_of(ids[-1]) / "facts.jsonl") as part:
                    part.write_text("".join(fact_lines(run.facts)), encoding="utf-8", newline="\n")
            with self._writing() as db:
                (last,) = db.execute("SELECT max(queue_place) FROM runs").fetchone()
                for place, (run_id, run) in enumerate(zip(ids, runs, strict=True), (last or 0) + 1):
                    db.execute(
                        """INSERT INTO runs (id, name, created, plan, settings, notices, facts_digest, order_digest,
                               statistics, statistics_wanted, device, n_edits, status, queue_place)
                           VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'queued', ?)""",
                        (run_id, run.plan.name, time.time(), _json(run.plan.to_json()), _json(vars(run.settings)),
                         _json(run.notices), run.facts_digest, run.order_digest, run.statistics,
                         _json(run.statistics_wanted), run.plan.device, run.plan.n_edits, place),
                    )  # fmt: skip
        except BaseException as error:
            for run_id in ids:
                shutil.rmtree(self.folder_of(run_id), ignore_errors=True)
            if isinstance(error, OSError):
                raise StoreError(f"The run cannot be written to {self.folder}: {error.strerror or error}.") from error
            raise
        return ids

    def cancel(self, run_id: str) -> RunInfo:
        """Take a run out of the queue, or ask its worker to stop it (which it does within a batch).

        Raises:
            InputError: when it is over already.
        """
        return self._ask_to_stop(run_id, "cancel", "cancelled")

    def interrupt(self, run_id: str) -> RunInfo:
        """Like `cancel`, but the run is then interrupted: meant to be resumed.

        Raises:
            InputError: when it is over already.
        """
        return self._ask_to_stop(run_id, "interrupt", "interrupted")

    def _ask_to_stop(self, run_id: str, stop: str, status: str) -> RunInfo:
        run = self.get(run_id)
        waiting = ("queued", "interrupted") if stop == "cancel" else ("queued",)
        with self._writing() as db:
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
        now = self.get(run_id)
        if not found:
            raise InputError(f"Run {run.id} is {now.status}, so there is nothing to stop.")
        return now

    def resume(self, run_id: str) -> RunInfo:
        """Put a run that was interrupted, cancelled or has failed at the end of the queue again.

        Raises:
            InputError: when it is of another status.
        """
        run = self.get(run_id)
        with self._writing() as db:
            marks = ", ".join("?" * len(RESUMABLE))
            found = db.execute(
                f"""UPDATE runs SET status = 'queued', stop = NULL, error = NULL, finished = NULL, detail = '{{}}',
                        queue_place = (SELECT coalesce(max(queue_place), 0) + 1 FROM runs)
                    WHERE id = ? AND status IN ({marks}) RETURNING id""",
                (run.id, *RESUMABLE),
            ).fetchall()
        now = self.get(run_id)
        if not found:
            raise InputError(f"Run {run.id} is {now.status}; only a run that is {_any_of(RESUMABLE)} can be resumed.")
        return now

    def delete(self, run_id: str) -> None:
        """Forget a run, its series and its files.

        Raises:
            InputError: while it is running.
        """
        run = self.get(run_id)
        with self._writing() as db:
            gone = db.execute(
                "DELETE FROM runs WHERE id = ? AND status != 'running' RETURNING id", (run.id,)
            ).fetchall()
        if not gone:
            raise InputError(f"Run {run.id} is running; cancel it first, then delete it.")
        shutil.rmtree(self.folder_of(run.id), ignore_errors=True)

    def rename(self, run_id: str, name: str) -> RunInfo:
        """Call a run otherwise.

        Raises:
            InputError: for a name that is empty, too long or not one line.
        """
        text = name.strip() if isinstance(name, str) else ""
        if not text or len(text) > 100 or not text.isprintable():
            raise InputError(f"The name {quoted(name)} is not one line of 1 to 100 characters; give one.")
        return self._write_field(run_id, "name", text)

    def tag(self, run_id: str, tags: Sequence[str]) -> RunInfo:
        """Give a run these tags, in place of those it had.

        Raises:
            InputError: for tags that are empty, too long or too many.
        """
        if isinstance(tags, str) or not isinstance(tags, list | tuple):
            raise InputError(f"The tags {quoted(tags)} are no list; give a list of words.")
        cleaned: list[str] = []
        for entry in tags:
            text = entry.strip() if isinstance(entry, str) else ""
            if not text or len(text) > 40 or not text.isprintable() or "," in text:
                raise InputError(f"The tag {quoted(entry)} is not 1 to 40 characters without a comma; give one.")
            cleaned += [text] if text not in cleaned else []
        if len(cleaned) > MOST_TAGS:
            raise InputError(f"{len(cleaned)} tags are too many; give up to {MOST_TAGS}.")
        return self._write_field(run_id, "tags", _json(cleaned))

    def _write_field(self, run_id: str, column: str, value: Any) -> RunInfo:
        run = self.get(run_id)
        with self._writing() as db:
            db.execute(f"UPDATE runs SET {column} = ? WHERE id = ?", (value, run.id))
        return self.get(run.id)

    # -- what a worker does --------------------------------------------------------------------------------------------

    def claim(self, device: str) -> Claim | None:
        """Take the next queued run of a device; None when there is none. The caller holds the device's lock."""
        owner = secrets.token_hex(8)
        with self._writing() as db:
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

    def beat(self, claim: Claim, detail: Mapping[str, Any]) -> str | None:
        """Say that the run lives and what it does. Returns "cancel" or "interrupt" when it is to stop.

        Raises:
            LostRun: when the run is no longer the caller's.
        """
        with self._writing() as db:
            row = db.execute(
                "UPDATE runs SET heartbeat = ?, detail = ? WHERE number = ? AND owner = ? RETURNING stop",
                (time.time(), _json(detail), claim.number, claim.owner),
            ).fetchone()
        if row is None:
            raise LostRun(claim.id)
        return row["stop"]

    def note(self, claim: Claim, **columns: Any) -> None:
        """Record facts about the run's process: fingerprint, threads, versions, code_commit, statistics_used.

        Raises:
            LostRun: when the run is no longer the caller's.
        """
        assignments = ", ".join(f"{name} = ?" for name in columns)
        values = [_json(value) if isinstance(value, Mapping | list | tuple) else value for value in columns.values()]
        with self._owned(claim) as db:
            db.execute(f"UPDATE runs SET {assignments} WHERE number = ?", (*values, claim.number))

    def states(self, run_id: str) -> list[SavedState]:
        """Saved states of a run, the newest first."""
        run = self.get(run_id)
        with self._reading() as db:
            rows = db.execute(
                "SELECT edits, file, digest FROM states WHERE run = ? ORDER BY edits DESC", (run.number,)
            ).fetchall()
        return [SavedState(*row) for row in rows]

    def rewind(self, claim: Claim, edits: int) -> None:
        """Go back to the state after so many edits: whatever was recorded behind it is dropped.

        Raises:
            LostRun: when the run is no longer the caller's.
        """
        with self._owned(claim) as db:
            for table in BY_EDITS:
                db.execute(f"DELETE FROM {table} WHERE run = ? AND edits > ?", (claim.number, edits))
            db.execute(END_AT, (claim.number, edits))

    def record_batch(self, claim: Claim, batch: BatchRecord) -> None:
        """Record a batch that has been edited.

        Raises:
            LostRun: when the run is no longer the caller's.
        """
        run, edits = claim.number, batch.edits
        with self._owned(claim) as db:
            db.execute(
                "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?)",
                (run, edits, batch.facts, batch.skipped, batch.resident_bytes, batch.peak_bytes,
                 batch.device_peak_bytes),
            )  # fmt: skip
            db.executemany(
                "INSERT INTO timings VALUES (?, ?, ?, ?)",
                [(run, edits, phase, seconds) for phase, seconds in batch.seconds.items()],
            )
            db.executemany(
                "INSERT INTO targets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [(run, t.fact, edits, t.steps, t.stopped, t.loss, t.nll, t.kl, t.decay, t.probability,
                  t.probability_before) for t in batch.targets],
            )  # fmt: skip
            db.executemany(
                "INSERT INTO trajectories VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [(run, t.fact, t.step, edits, t.loss, t.nll, t.kl, t.decay, t.probability)
                 for t in batch.trajectories],
            )  # fmt: skip
            db.execute(
                "UPDATE runs SET done = ?, skipped = skipped + ?, editing_seconds = editing_seconds + ? "
                "WHERE number = ?",
                (edits, batch.skipped, sum(batch.seconds.values()), run),
            )

    def record_state(self, claim: Claim, state: SavedState, seconds: float) -> None:
        """Move the cursor to a state that is on disk. The state before it is kept as a fallback, older ones are not.

        Args:
            claim: the caller's right to the run.
            state: what was saved.
            seconds: what saving took; counted beside the batch's phases.

        Raises:
            LostRun: when the run is no longer the caller's.
        """
        run = claim.number
        with self._owned(claim) as db:
            db.execute(
                "INSERT OR REPLACE INTO states VALUES (?, ?, ?, ?)", (run, state.edits, state.file, state.digest)
            )
            db.execute(
                """DELETE FROM states WHERE run = ?1 AND edits NOT IN
                       (SELECT edits FROM states WHERE run = ?1 ORDER BY edits DESC LIMIT 2)""",
                (run,),
            )
            db.execute(
                "INSERT INTO timings VALUES (?, ?, 'saving', ?) "
                "ON CONFLICT (run, edits, phase) DO UPDATE SET seconds = seconds + excluded.seconds",
                (run, state.edits, seconds),
            )
            db.execute(
                "UPDATE runs SET cursor = ?, editing_seconds = editing_seconds + ? WHERE number = ?",
                (state.edits, seconds, run),
            )

    def measured(self, run_id: str) -> set[int]:
        """The checkpoints of a run that have been measured."""
        run = self.get(run_id)
        with self._reading() as db:
            return {row[0] for row in db.execute("SELECT edits FROM checkpoints WHERE run = ?", (run.number,))}

    def part_seconds(self, run_id: str) -> dict[str, list[float]]:
        """What each part of measuring took, at each checkpoint at which it was measured, in order."""
        run = self.get(run_id)
        with self._reading() as db:
            rows = db.execute("SELECT part, seconds FROM measuring WHERE run = ? ORDER BY edits", (run.number,))
            seconds: dict[str, list[float]] = {}
            for row in rows:
                seconds.setdefault(row["part"], []).append(row["seconds"])
            return seconds

    def record_checkpoint(self, claim: Claim, checkpoint: CheckpointRecord) -> None:
        """Record what was measured at a checkpoint.

        Raises:
            LostRun: when the run is no longer the caller's.
        """
        run, edits = claim.number, checkpoint.edits
        with self._owned(claim) as db:
            db.execute("INSERT INTO checkpoints VALUES (?, ?, ?)", (run, edits, _json(checkpoint.left_out)))
            for table, rows in (
                ("norms", checkpoint.norms),
                ("scores", checkpoint.scores),
                ("contributions", checkpoint.contributions),
                ("measures", checkpoint.measures),
                ("downstream", checkpoint.downstream),
                ("measuring", checkpoint.seconds.items()),
            ):
                rows = [(run, edits, *row) for row in rows]
                if rows:
                    db.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows)
            db.execute(
                "UPDATE runs SET measuring_seconds = measuring_seconds + ? WHERE number = ?",
                (sum(checkpoint.seconds.values()), run),
            )

    def finish(self, claim: Claim, status: str, error: str | None = None, weights_digest: str | None = None) -> None:
        """Let go of a run.

        Args:
            claim: the caller's right to it.
            status: how it ended.
            error: one line, when something went wrong.
            weights_digest: of the edited matrices, when it is done; its saved states are not needed any more then.

        Raises:
            LostRun: when the run is no longer the caller's.
        """
        with self._owned(claim) as db:
            db.execute(
                """UPDATE runs SET status = ?, error = ?, stop = NULL, owner = NULL, finished = ?, heartbeat = ?,
                       detail = '{}', weights_digest = ? WHERE number = ?""",
                (status, error, time.time(), time.time(), weights_digest, claim.number),
            )
            if status == "done":
                db.execute("DELETE FROM states WHERE run = ?", (claim.number,))

    # -- the database --------------------------------------------------------------------------------------------------

    def query(self, sql: str, values: Sequence[Any] = ()) -> tuple[list[str], list[tuple]]:
        """Column names and rows of a SELECT; `series` builds its frames on it."""
        with self._reading() as db:
            db.row_factory = None
            cursor = db.execute(sql, values)
            return [column[0] for column in cursor.description], cursor.fetchall()

    def _check_version(self) -> int:
        with self._reading() as db:
            version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"The store {self.file} has version {version}, but this program knows {SCHEMA_VERSION}; use the newer "
                "program, or another folder."
            )
        return version

    def _make_schema(self) -> None:
        if self._check_version() < SCHEMA_VERSION:
            # Two processes that find no store, or an old one, must not both make one.
            lock = FileLock(self.folder / "store.lock", timeout=BUSY_SECONDS)
            with self._clear_errors(), self._clear_lock_errors(), lock, self._reading() as db:
                if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                    db.execute("PRAGMA journal_mode = WAL")
                bring_up_to_date(db)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._clear_errors():
            # Immutable: SQLite then looks for no other files and takes no locks, so the folder may be read-only, too.
            uri = f"{self.file.as_uri()}{'?mode=ro&immutable=1' if self.read_only else ''}"
            db = sqlite3.connect(uri, timeout=BUSY_SECONDS, isolation_level=None, uri=True)
            try:
                db.row_factory = sqlite3.Row
                db.execute("PRAGMA foreign_keys = ON")
                # A state file that the cursor points to must not be lost by a power cut after the older one is gone.
                db.execute("PRAGMA synchronous = FULL")
                yield db
            finally:
                db.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it or nothing."""
        if self.read_only:
            raise InputError("Recorded runs come with the program and cannot be changed; start a run of your own.")
        with self._reading() as db:
            # Taken at once: a transaction that first reads and then wants to write could be refused in the middle.
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    @contextmanager
    def _owned(self, claim: Claim) -> Iterator[sqlite3.Connection]:
        """A transaction on a run that is still the caller's."""
        with self._writing() as db:
            row = db.execute("SELECT owner FROM runs WHERE number = ?", (claim.number,)).fetchone()
            if row is None or row["owner"] != claim.owner:
                raise LostRun(claim.id)
            yield db

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except Timeout as error:
            raise StoreError(f"The store {self.file} is being made by another process; try again.") from error
        except (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError):
            raise  # defects of ours
        except sqlite3.DatabaseError as error:
            raise StoreError(self._said(error)) from error

    def _said(self, error: sqlite3.DatabaseError) -> str:
        """One line about an error of the database, which is told by its number: texts are the library's own affair."""
        # The lowest byte is the kind; those above it say more of some kinds.
        code = (getattr(error, "sqlite_errorcode", None) or sqlite3.SQLITE_ERROR) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            return f"The disk of {self.folder} is full; free some space and try again."
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return f"The store {self.file} has been locked by another process for {BUSY_SECONDS:.0f} s; end that one."
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return f"The store {self.file} is damaged ({error}); move it away, or give another folder."
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN):
            return f"The store {self.file} cannot be written ({error}); give a folder that you can write to."
        return f"The store {self.file} cannot be used ({error}); check the folder, or give another."

    def _new_folder(self, method: str) -> str:
        """Draw an id that no run has, and make its folder. Making it decides between processes that draw the same."""
        while True:
            run_id = f"{_slug(method)}-{''.join(secrets.choice(_ID_LETTERS) for _ in range(4))}"
            with self._reading() as db:
                # Of a run whose folder was removed by hand the row is still there.
                if db.execute("SELECT 1 FROM runs WHERE id = ?", (run_id,)).fetchone():
                    continue
            try:
                self.folder_of(run_id).mkdir(exist_ok=False)
            except FileExistsError:
                continue
            return run_id


def _seems_dead(row: sqlite3.Row) -> bool:
    """Whether a running run's worker should be looked for."""
    if row["status"] != "running":
        return False
    if time.time() - row["heartbeat"] > SILENT_SECONDS:
        return True
    return row["host"] == processes.host() and (
        row["boot_id"] != processes.boot_id() or not processes.is_alive(row["pid"])
    )


def _info(row: sqlite3.Row, recorded: bool) -> RunInfo:
    plain = (
        "number", "id", "name", "created", "started", "finished", "facts_digest", "order_digest", "statistics",
        "device", "n_edits", "status", "position", "stop", "error", "cursor", "done", "skipped", "editing_seconds",
        "measuring_seconds", "pid", "host", "boot_id", "heartbeat", "fingerprint", "threads", "weights_digest",
    )  # fmt: skip
    later = {name: row[name] if name in row.keys() else None for name in LATER_COLUMNS}  # noqa: SIM118
    return RunInfo(
        **{name: row[name] for name in plain},
        **{name: tuple(json.loads(text or "[]")) for name, text in later.items()},
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


def _slug(text: str) -> str:
    """Text as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "run"


def _any_of(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _tail(path: Path, n_lines: int) -> str:
    """The last lines of a text file, without reading all of a long one."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - 400 * n_lines))
            lines = stream.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-n_lines:])
