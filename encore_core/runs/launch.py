"""Start workers: processes of their own that outlive whoever started them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

from encore_core.resources import CODE_FOLDER
from encore_core.runs.store import RunStore, StoreError

ENVIRONMENT = {
    # Threads that wait by spinning starve the pages on the same cores, see `runtime`.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Set from the first allocation on, they keep large blocks for the next step instead of mapping them anew.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1),
    # Without it CUDA's matrix products may sum in another order each time, and a resumed run would not be the same.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}


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
        with store.worker_log(device).open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Neither Ctrl-C nor the end of the terminal or the app is the worker's business.
                start_new_session=True,
                cwd=CODE_FOLDER,
                env=ENVIRONMENT | os.environ,
            )
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(f"No worker can be started ({reason}); the run stays in the queue.") from error
    # Somebody has to wait for it when it ends, or it would be listed as a dead process as long as this one lives.
    threading.Thread(target=process.wait, name="waits for a worker", daemon=True).start()
    return process
