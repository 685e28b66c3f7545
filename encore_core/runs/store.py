"""The store: every run, its queue and its series, in one SQLite file that any number of processes may read and write.

A run is queued, running, interrupted, cancelled, failed or done. Others use only `RunStore`; the work is done in

    database        opening the file, transactions, errors
    places          the files of runs, logs and locks
    lookup          looking up runs
    queue           adding, stopping, resuming and deleting runs
    labels          names and tags
    liveness        which workers live, and runs whose worker is gone
    ownership       a worker takes a run, shows that it is alive, and releases it
    series_rows     what it records of the run

and the function of the same name there documents a method's arguments and errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from encore_core.facts import Fact
from encore_core.runs import folders, labels, lookup, ownership, queue, series_rows, worker_liveness
from encore_core.runs.database import Database
from encore_core.runs.facts_file import facts_of
from encore_core.runs.preparing import PreparedRun
from encore_core.runs.rows import BatchRecord, CheckpointRecord, Claim, RunInfo, SavedState
from encore_core.storage import data_folder


class RunStore:
    """The runs in a folder. Objects are cheap and hold no connection; any thread and process may have its own.

    Args:
        folder: of the store; `runs` in the data folder by default. Made when it is missing.
        read_only: open a store that never changes, see `recorded`. It must exist, and no file is made beside it.

    Raises:
        StoreError: when the folder cannot be written, or holds a damaged store or one of a newer version.
    """

    def __init__(self, folder: Path | str | None = None, read_only: bool = False):
        self.read_only = read_only
        self.folder = Path(folder).expanduser().absolute() if folder is not None else data_folder() / "runs"
        self.database = Database(self.folder, read_only)
        self.file = self.database.file

    # -- places --------------------------------------------------------------------------------------------------------

    def folder_of(self, run_id: str) -> Path:
        """The folder of a run's files."""
        return folders.run_folder(self.folder, run_id)

    def log_file(self, run_id: str) -> Path:
        return folders.log_file(self.folder, run_id)

    def worker_log(self, device: str) -> Path:
        return folders.worker_log(self.folder, device)

    def device_lock(self, device: str) -> FileLock:
        """The lock that the worker of a device holds while it lives."""
        return folders.device_lock(self.folder, device)

    # -- looking -------------------------------------------------------------------------------------------------------

    def runs(self, search: str = "") -> list[RunInfo]:
        """All runs, the newest first."""
        return lookup.all_runs(self.database, search)

    def get(self, run_id: str) -> RunInfo:
        """A run by its id."""
        return lookup.get(self.database, run_id)

    def facts(self, run_id: str) -> list[Fact]:
        """The facts of a run, in order."""
        run = self.get(run_id)
        return facts_of(run, self._facts_file(run))

    def has_facts(self, run: RunInfo) -> bool:
        """Whether the facts of a run are here: recorded runs on files that we may not pass on lack them."""
        return self._facts_file(run).is_file()

    def _facts_file(self, run: RunInfo) -> Path:
        own = folders.facts_file(self.folder, run.id)
        recorded = folders.recorded_facts_file(self.folder, run.order_digest)
        return own if own.exists() or not recorded.exists() else recorded

    def read_log(self, run_id: str, n_lines: int = 200) -> str:
        """The last lines of a run's log; empty before its start.

        Raises:
            InputError: when there is no such run.
        """
        return _tail(self.log_file(self.get(run_id).id), n_lines)

    def query(self, sql: str, values: Sequence[Any] = ()) -> tuple[list[str], list[tuple]]:
        """Column names and rows of a SELECT; `series` builds its frames on it."""
        return self.database.query(sql, values)

    # -- what people do ------------------------------------------------------------------------------------------------

    def submit(self, runs: Sequence[PreparedRun], tags: Sequence[str] = (), queue_name: str | None = None) -> list[str]:
        """Put runs at the end of the queue of their device, or of another: all of them or none."""
        return queue.submit(self.database, runs, tags, queue_name)

    def cancel(self, run_id: str) -> RunInfo:
        """Take a run out of the queue, or ask its worker to stop it (which it does within a batch)."""
        return queue.cancel(self.database, run_id)

    def interrupt(self, run_id: str) -> RunInfo:
        """Like `cancel`, but the run is then interrupted: meant to be resumed."""
        return queue.interrupt(self.database, run_id)

    def resume(self, run_id: str) -> RunInfo:
        """Put a run that was interrupted, cancelled or has failed back at the end of the queue."""
        return queue.resume(self.database, run_id)

    def delete(self, run_id: str) -> None:
        """Delete a run, its series and its files."""
        queue.delete(self.database, run_id)

    def rename(self, run_id: str, name: str) -> RunInfo:
        """Rename a run."""
        return labels.rename(self.database, run_id, name)

    def tag(self, run_id: str, tags: Sequence[str]) -> RunInfo:
        """Replace a run's tags."""
        return labels.tag(self.database, run_id, tags)

    # -- whether workers live ------------------------------------------------------------------------------------------

    def has_worker(self, device: str) -> bool:
        """Whether a worker of the device is alive. (It may be about to end, see `launch.start_worker`.)"""
        return worker_liveness.has_worker(self.database, device)

    def reconcile(self) -> list[str]:
        """Mark runs as interrupted whose worker was killed, or whose machine has restarted."""
        return worker_liveness.reconcile(self.database)

    def abandon(self, device: str) -> list[str]:
        """Mark the runs of a device whose status is still running. The caller holds the device's lock, so none is."""
        return worker_liveness.abandon(self.database, device)

    # -- what a worker does --------------------------------------------------------------------------------------------

    def claim(self, device: str) -> Claim | None:
        """Take the next queued run of a device; None when there is none. The caller holds the device's lock."""
        return ownership.claim(self.database, device)

    def beat(self, claim: Claim, detail: Mapping[str, Any]) -> str | None:
        """Record that the run is alive and what it does. Returns "cancel" or "interrupt" when it must stop."""
        return ownership.beat(self.database, claim, detail)

    def note(self, claim: Claim, **columns: Any) -> None:
        """Record facts about the run's process: fingerprint, threads, versions, code_commit, statistics_used,
        protocols."""
        ownership.note(self.database, claim, **columns)

    def finish(self, claim: Claim, status: str, error: str | None = None, weights_digest: str | None = None) -> None:
        """Release a run."""
        ownership.finish(self.database, claim, status, error, weights_digest)

    def states(self, run_id: str) -> list[SavedState]:
        """Saved states of a run, the newest first."""
        return series_rows.states(self.database, run_id)

    def rewind(self, claim: Claim, edits: int) -> None:
        """Go back to the state after `edits` edits: drop what was recorded later."""
        series_rows.rewind(self.database, claim, edits)

    def record_batch(self, claim: Claim, batch: BatchRecord) -> None:
        """Record a batch that has been edited."""
        series_rows.record_batch(self.database, claim, batch)

    def record_state(self, claim: Claim, state: SavedState, seconds: float) -> None:
        """Move the cursor to a state that is on disk. The previous state is kept as a fallback, older ones are not."""
        series_rows.record_state(self.database, claim, state, seconds)

    def record_checkpoint(self, claim: Claim, checkpoint: CheckpointRecord) -> None:
        """Record what was measured at a checkpoint."""
        series_rows.record_checkpoint(self.database, claim, checkpoint)

    def measured(self, run_id: str) -> set[int]:
        """The checkpoints of a run that have been measured."""
        return series_rows.measured(self.database, run_id)

    def part_seconds(self, run_id: str) -> dict[str, list[float]]:
        """Seconds of each part of measuring, at each checkpoint at which it was measured, in order."""
        return series_rows.part_seconds(self.database, run_id)


def _tail(path: Path, n_lines: int) -> str:
    """The last lines of a text file, without reading all of a long one."""
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - 400 * n_lines))
            lines = stream.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-n_lines:])
