"""Where things lie in a folder of runs.

    runs.sqlite             rows of runs, and their series
    device-<device>.lock    held by the worker of that device as long as it lives; the system frees it
    worker-<device>.log     what workers say outside a run
    <run id>/facts.jsonl    the facts of the run, in order
    <run id>/log.txt        what happened in it
    <run id>/state-*.safetensors, edited.safetensors    see `resume_state`

Devices and methods are written in names of files as `slug` writes them.
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


def log_file(folder: Path, run_id: str) -> Path:
    return run_folder(folder, run_id) / "log.txt"


def worker_log(folder: Path, device: str) -> Path:
    return folder / f"worker-{slug(device)}.log"


def device_lock(folder: Path, device: str) -> FileLock:
    """The lock that the worker of a device holds as long as it lives."""
    return FileLock(folder / f"device-{slug(device)}.lock")


def slug(text: str) -> str:
    """Text as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "run"
