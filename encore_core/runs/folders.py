"""The files in a folder of runs.

    runs.sqlite             rows of runs, and their series
    device-<device>.lock    held by the worker of that device while it lives; the system frees it
    worker-<device>.log     what workers say outside a run
    <run id>/facts.jsonl    the facts of the run, in order
    facts-<digest>.jsonl    the same, of all recorded runs that have these facts in this order
    <run id>/log.txt        the run's log
    <run id>/state-*.safetensors, edited.safetensors    see `resume_state`

In file names, devices and methods are written as `slug` gives them.
"""

from __future__ import annotations

import re
from pathlib import Path

from filelock import FileLock


def run_folder(folder: Path, run_id: str) -> Path:
    """The folder of a run's files."""
    return folder / run_id


def facts_file(folder: Path, run_id: str) -> Path:
    return run_folder(folder, run_id) / "facts.jsonl"


def recorded_facts_file(folder: Path, order_digest: str) -> Path:
    """The facts of recorded runs, many of which have the same in the same order."""
    return folder / f"facts-{order_digest}.jsonl"


def log_file(folder: Path, run_id: str) -> Path:
    return run_folder(folder, run_id) / "log.txt"


def worker_log(folder: Path, device: str) -> Path:
    return folder / f"worker-{slug(device)}.log"


def device_lock(folder: Path, device: str) -> FileLock:
    """The lock that the worker of a device holds while it lives."""
    return FileLock(folder / f"device-{slug(device)}.lock")


def slug(text: str) -> str:
    """Text as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "run"
