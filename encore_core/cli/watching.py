"""Watching runs from a terminal: a bar for each, Ctrl-C, workers that do not start, and how runs ended."""

from __future__ import annotations

import json
import subprocess
import time
from collections import Counter
from collections.abc import Sequence

from encore_core.cli.output import Bar, duration, notice
from encore_core.errors import InputError
from encore_core.runs.launch import start_worker
from encore_core.runs.rows import RunInfo
from encore_core.runs.store import RunStore
from encore_core.words import counted

POLL_SECONDS = 0.5
STARTS = 2
"""How often to start a worker for a run that none takes before telling the user."""


class Workers:
    """Starts workers for a queue, and restarts one that ends before it has taken a run."""

    def __init__(self, store: RunStore):
        self.store = store
        self.processes: dict[str, subprocess.Popen | None] = {}
        self.starts: Counter[str] = Counter()

    def ensure(self, device: str) -> None:
        """Make sure that a worker serves the device.

        Raises:
            InputError: when workers have been started and none lives, with what the last one said.
        """
        process = self.processes.get(device)
        # A worker takes some seconds to start.
        if (process is not None and process.poll() is None) or self.store.has_worker(device):
            return
        if self.starts[device] == STARTS:
            file = self.store.worker_log(device)
            said = file.read_text(encoding="utf-8", errors="replace").strip().splitlines() if file.is_file() else []
            raise InputError(
                f"The worker of {device} ends at once: {said[-1] if said else 'no reason given'} (see {file})."
            )
        self.starts[device] += 1
        self.processes[device] = start_worker(self.store, device)


def watch(store: RunStore, ids: Sequence[str], workers: Workers) -> None:
    """Show a bar for each run until all have ended. Ctrl-C interrupts the rest."""
    try:
        for run_id in ids:
            _follow(store, run_id, workers)
    except KeyboardInterrupt:
        _interrupt(store, ids)
        raise


def _follow(store: RunStore, run_id: str, workers: Workers) -> None:
    run = store.get(run_id)
    with Bar(f"{run.method} ({run.id})", total=run.n_edits, unit="edit") as bar:
        while not run.ended:
            bar.at(run.done, activity(run))
            if run.status == "queued":
                workers.ensure(run.device)
            else:
                workers.starts[run.device] = 0  # it takes runs; if it ends hours later, another may take the rest
            time.sleep(POLL_SECONDS)
            run = store.get(run_id)
        bar.at(run.done, run.status)


def activity(run: RunInfo) -> str:
    """What a run is doing, in a few words."""
    detail = run.detail
    if run.status == "queued":
        return f"place {run.position} in the queue"
    phase = detail.get("phase", "starting")
    phase = {"targets": "seeking targets", "update": "updating"}.get(phase, phase)
    words = [" ".join(str(part) for part in (phase, detail.get("what")) if part)]
    if "step" in detail and detail.get("phase") == "targets":
        words[0] += f", step {detail['step']}"
    if "seconds_per_edit" in detail:
        words.append(f"{detail['seconds_per_edit']:.2f} s per edit")
    if run.status == "running" and run.stop:
        words[0] = f"stops after {words[0]}"
    if "seconds_left" in detail:
        words.append(f"{duration(detail['seconds_left'])} left")
    return " · ".join(words)


def _interrupt(store: RunStore, ids: Sequence[str]) -> None:
    """Stop runs so that they can be resumed, and say so."""
    waiting = []
    for run_id in ids:
        try:
            store.interrupt(run_id)
            waiting.append(run_id)
        except InputError:
            continue  # it has ended
    if not waiting:
        return
    notice("Stopping; the state is being saved. Ctrl-C once more leaves that to the worker.")
    while not all(store.get(run_id).ended for run_id in waiting):
        time.sleep(POLL_SECONDS)
    tell_ends(store, waiting, asked=True)


def tell_ends(store: RunStore, ids: Sequence[str], asked: bool = False) -> None:
    """Say which runs ended without being done.

    Args:
        store: where they are.
        ids: of the runs.
        asked: whether this command interrupted them.

    Raises:
        InputError: when one has failed, or was interrupted though this command did not ask for it.
    """
    runs = [store.get(run_id) for run_id in ids]
    for run in runs:
        if run.status in ("interrupted", "cancelled"):
            why = f" ({run.error})" if run.error else ""
            at = f"{run.cursor:,} of {counted(run.n_edits, 'edit')}"
            notice(f"{run.id} is {run.status} at {at}{why}; encore runs resume {run.id}")
    for run in runs:
        if run.status == "failed":
            raise InputError(f"Run {run.id} failed: {run.error} What it had is kept: encore runs resume {run.id}")
    stopped = [run.id for run in runs if run.status == "interrupted"]
    if stopped and not asked:
        raise InputError(f"Interrupted, not done: {', '.join(stopped)}; encore runs resume {' '.join(stopped)}")


def print_ids(store: RunStore, ids: Sequence[str], as_json: bool) -> None:
    if as_json:
        print(json.dumps([store.get(run_id).as_dict() for run_id in ids]))
    else:
        for run_id in ids:
            print(run_id)
