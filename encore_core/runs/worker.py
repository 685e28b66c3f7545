"""The worker: takes queued runs of one device, one after the other, in a process of its own.

    python -m encore_core.runs.worker --store FOLDER --device cpu

It holds the lock of its device as long as it lives, keeps the model between runs, and ends when the queue has been
empty for a while. A run that fails does not end it. SIGTERM (a machine that shuts down) and Ctrl-C save the run's state
and leave it interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import Timeout

from encore_core.errors import InputError
from encore_core.runs.database import StoreError
from encore_core.runs.heartbeat import Pulse, Stopped
from encore_core.runs.model_keeper import ModelKeeper
from encore_core.runs.ownership import LostRun
from encore_core.runs.resume_state import remove_others
from encore_core.runs.rows import Claim
from encore_core.runs.runner import SAVE_SECONDS, execute
from encore_core.runs.store import RunStore

log = logging.getLogger(__name__)

IDLE_SECONDS = 5.0
POLL_SECONDS = 0.3
LOCK_SECONDS = 5.0
"""How long to wait for the device's lock: whoever looks whether a worker lives has it for a moment."""

STATUS_AFTER = {"cancel": "cancelled", "interrupt": "interrupted"}


class Worker:
    """Serves the queue of one device.

    Args:
        store: whose queue.
        device: as in the plans, prepared.
        idle_seconds: how long to wait with an empty queue.
        save_seconds: see `runner.SAVE_SECONDS`.
    """

    def __init__(
        self,
        store: RunStore,
        device: str,
        *,
        idle_seconds: float = IDLE_SECONDS,
        save_seconds: float = SAVE_SECONDS,
    ):
        self.store, self.device = store, device
        self.idle_seconds, self.save_seconds = idle_seconds, save_seconds
        self.models = ModelKeeper()
        self.threads = torch.get_num_threads()
        self._ending = threading.Event()
        self._pulse: Pulse | None = None

    def end(self) -> None:
        """End soon: the run at hand saves its state and is interrupted. Safe in a signal handler."""
        self._ending.set()
        if self._pulse is not None:
            self._pulse.ask("interrupt")

    def serve(self) -> None:
        """Run what is queued until nothing has been for a while. Returns at once when another worker does that.

        Raises:
            StoreError: when the store cannot be written any more.
        """
        lock = self.store.device_lock(self.device)
        while True:
            try:
                lock.acquire(timeout=LOCK_SECONDS)
            except Timeout:
                log.info("Another worker serves %s.", self.device)
                return
            except OSError as error:
                raise StoreError(
                    f"The folder of runs {self.store.folder} cannot be written ({error.strerror or error}); give one "
                    "you can write to."
                ) from error
            try:
                self._tidy()
                self._serve_queue()
            finally:
                lock.release()
            # Whoever submitted a run before the lock was free relied on this worker.
            if self._ending.is_set() or not self._waiting():
                return

    def _tidy(self) -> None:
        """What a killed worker may have left: runs that are not running, files that nobody needs."""
        self.store.abandon(self.device)
        for run in self.store.runs():
            if run.status == "done":
                remove_others(self.store.folder_of(run.id), ())

    def _serve_queue(self) -> None:
        last = time.monotonic()
        while not self._ending.is_set():
            claim = self.store.claim(self.device)
            if claim is not None:
                self._run(claim)
                last = time.monotonic()
            elif time.monotonic() - last >= self.idle_seconds:
                return
            else:
                self._ending.wait(POLL_SECONDS)

    def _waiting(self) -> bool:
        return any(run.status == "queued" and run.device == self.device for run in self.store.runs())

    def _run(self, claim: Claim) -> None:
        status, error = "done", None
        with _logged_to(self.store.log_file(claim.id)):
            log.info("Run %s begins or goes on in process %d.", claim.id, os.getpid())
            try:
                with Pulse(self.store, claim) as self._pulse:
                    if self._ending.is_set():
                        self._pulse.ask("interrupt")
                    execute(
                        self.store,
                        claim,
                        self._pulse,
                        self.models,
                        threads=self.threads,
                        save_seconds=self.save_seconds,
                    )
            except Stopped as reason:
                status = STATUS_AFTER[str(reason)]
            except LostRun:
                log.warning("Run %s has been taken by another process; this one lets it go.", claim.id)
                return
            except InputError as refusal:
                status, error = "failed", " ".join(str(refusal).split())
            except Exception as defect:
                log.exception("Run %s failed.", claim.id)
                first = (str(defect).strip() or "no message").splitlines()[0]
                status, error = "failed", f"{type(defect).__name__}: {first}"
            finally:
                self._pulse = None
            log.info("Run %s: %s.", claim.id, " – ".join(filter(None, (status, error))))
            if status != "done":
                self._finish(claim, status, error)

    def _finish(self, claim: Claim, status: str, error: str | None) -> None:
        """Write how a run ended; with patience, because the very disk may be full."""
        for attempt in range(3):
            try:
                with suppress(LostRun):
                    self.store.finish(claim, status, error)
            except StoreError as problem:
                if attempt == 2:
                    raise
                log.warning("%s", problem)
                time.sleep(1.0)
            else:
                return


class _RunLog(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """A line that a full disk does not take is lost; the run itself says what it cannot write."""


@contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    """What the engine says goes into a run's log while the block runs."""
    engine = logging.getLogger("encore_core")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler: logging.Handler = _RunLog(path, encoding="utf-8")
    except OSError as error:
        # A run that cannot have a log will hardly have a state; that is said where it matters.
        log.warning("%s cannot be written: %s", path, error)
        handler = logging.NullHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = engine.level
    engine.addHandler(handler)
    engine.setLevel(logging.INFO)
    try:
        yield
    finally:
        engine.setLevel(level)
        engine.removeHandler(handler)
        with suppress(OSError):  # what could not be written cannot be flushed either
            handler.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve a queue; the command line of the process.

    Args:
        arguments: words after the module's name; those of the process by default.

    Returns:
        the exit code: 0, or 2 when the store cannot be used.
    """
    parser = argparse.ArgumentParser(prog="python -m encore_core.runs.worker", description=__doc__.splitlines()[0])
    parser.add_argument("--store", required=True, type=Path, help="folder of the store")
    parser.add_argument("--device", required=True, help="cpu, mps, cuda:0, …")
    parser.add_argument("--idle-seconds", type=float, default=IDLE_SECONDS, help="wait so long with an empty queue")
    parser.add_argument("--save-seconds", type=float, default=SAVE_SECONDS, help="save a run's state this often")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    _settle_process(options.device)
    try:
        worker = Worker(
            RunStore(options.store),
            options.device,
            idle_seconds=options.idle_seconds,
            save_seconds=options.save_seconds,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: worker.end())
        worker.serve()
    except InputError as error:
        log.error("%s", error)
        return 2
    except OSError as error:  # of the lock, the log, or whatever else is written beside runs
        log.error("The worker of %s ends: %s", options.device, error)
        return 2
    return 0


def _settle_process(device: str) -> None:
    """What is the whole process's: its manners towards others, and that equal input gives equal bits."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    # People at the pages come before a run of hours on the same cores.
    with suppress(OSError, AttributeError):
        os.nice(5)
    if device.startswith("cuda"):
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False


if __name__ == "__main__":
    sys.exit(main())
