"""Start workers: processes of their own that outlive whoever started them."""

from __future__ import annotations

import subprocess
import sys

from encore_core import processes
from encore_core.runs.database import StoreError
from encore_core.runs.store import RunStore


def start_worker(store: RunStore, device: str) -> subprocess.Popen | None:
    """See to it that a worker serves the queue of a device.

    A worker that is about to end looks at the queue once more after it has let go of its lock, so a run submitted
    before this call is always taken: by the worker that is there, or by the one started here.

    Args:
        store: whose queue.
        device: as in the plans, prepared ("cpu", "cuda:0").

    Returns:
        the process, or None when there is a worker already.

    Raises:
        StoreError: when no process can be started.
    """
    if store.has_worker(device):
        return None
    command = [sys.executable, "-m", "encore_core.runs.worker", "--store", str(store.folder), "--device", device]
    try:
        return processes.start(command, store.worker_log(device))
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(f"No worker can be started ({reason}); the run stays in the queue.") from error
