"""The process of a job: gathers statistics, reports its progress, and stops when asked.

python -m encore_core.statistics.worker JOB
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from encore_core.errors import InputError
from encore_core.models.editable import load_model
from encore_core.processes import boot_id
from encore_core.statistics import jobs
from encore_core.statistics.gathering import gather
from encore_core.statistics.texts import Interrupted

log = logging.getLogger(__name__)

WRITE_SECONDS = 0.5


class Teller:
    """Writes the state of a job from time to time.

    Args:
        job_id: the job.
    """

    def __init__(self, job_id: str):
        self.job_id = job_id
        self.state: dict[str, Any] = {"status": "running", "pid": os.getpid(), "boot": boot_id(), "at": time.time()}
        self._written = 0.0
        self._phase: tuple[str, int, float] | None = None
        self.write()

    def tell(self, what: str, done: int, total: int) -> None:
        """Report progress, see `gathering.Tell`."""
        now = time.monotonic()
        # Progress is measured from the start of a phase, or from where it was resumed.
        if self._phase is None or self._phase[0] != what:
            self._phase = what, done, now
        _, first, began = self._phase
        left = (now - began) / (done - first) * (total - done) if done > first else None
        self.state |= {"what": what, "done": done, "total": total, "seconds_left": left}
        if now - self._written >= WRITE_SECONDS or done == total:
            self.write()

    def write(self, **values: Any) -> None:
        """Write the state, with some values changed."""
        self.state |= values
        jobs.write_state(self.job_id, self.state)
        self._written = time.monotonic()

    def fail(self, why: str) -> None:
        """Write why a job has failed; if that cannot be written, it is only in the log."""
        try:
            self.write(status="failed", error=why)
        except InputError as error:
            log.error("The job's failure cannot be recorded: %s", error)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do a job; the command line of the process. Returns the exit code: 0, 2 failed, 130 stopped."""
    parser = argparse.ArgumentParser(
        prog="python -m encore_core.statistics.worker", description=__doc__.splitlines()[0]
    )
    parser.add_argument("job")
    job_id = parser.parse_args(arguments).job
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("encore_core").setLevel(logging.INFO)
    _settle_process()
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    try:
        request = jobs.request_of(job_id)
        teller = Teller(job_id)
    except InputError as error:
        log.error("%s", error)
        return 2

    def asked() -> bool:
        return ending.is_set() or jobs.stop_asked(job_id)

    try:
        lm = load_model(
            request.model,
            request.device,
            request.dtype,
            lambda w, s: teller.tell(w, int(1000 * s), 1000),
            request.start_token,
        )
        result = gather(lm, request, teller.tell, asked)
    except Interrupted:
        teller.write(status="stopped")
        return 130
    except InputError as error:
        log.error("%s", error)
        teller.fail(" ".join(str(error).split()))
        return 2
    except Exception as defect:
        log.exception("Gathering failed.")
        first = (str(defect).strip() or "no message").splitlines()[0]
        teller.fail(f"{type(defect).__name__}: {first}")
        return 2
    try:
        teller.write(status="done", result=result.as_dict())
    except InputError as error:
        log.error("The statistics are done, but that cannot be recorded: %s", error)
        return 2
    return 0


def _settle_process() -> None:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    # The app's pages have priority over this process.
    with suppress(OSError, AttributeError):
        os.nice(5)


if __name__ == "__main__":
    sys.exit(main())
