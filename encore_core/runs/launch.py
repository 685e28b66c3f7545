"""Start workers: separate processes that outlive the one that started them."""

from __future__ import annotations

import subprocess
import sys

from encore_core import processes
from encore_core.runs.database import StoreError
from encore_core.runs.store import RunStore
from encore_core.storage import data_folder

CLUSTER = "ray:"
"""How the queues of clusters begin; their worker is a driver of Ray, see `cluster.driver`, which knows this folder."""


def start_worker(store: RunStore, device: str) -> subprocess.Popen | None:
    """Make sure that a worker serves the queue of a device.

    A worker that is about to end checks the queue once more after it has released its lock, so a run submitted before
    this call is always taken: by the existing worker, or by the one started here.

    Args:
        store: whose queue.
        device: as in the plans, prepared ("cpu", "cuda:0"), or the queue of a cluster ("ray:my-plan").

    Returns:
        the process, or None when there is already a worker.

    Raises:
        StoreError: when no process can be started.
    """
    if store.has_worker(device):
        return None
    module = "encore_core.cluster.driver" if device.startswith(CLUSTER) else "encore_core.runs.worker"
    command = [sys.executable, "-m", module, "--store", str(store.folder), "--device", device]
    try:
        return processes.start(command, store.worker_log(device), ENCORE_HOME=str(data_folder()))
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(f"No worker can be started ({reason}); the run stays in the queue.") from error
