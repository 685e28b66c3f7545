"""A run's pulse: signs of life and what it does, told to the store, and asked for there whether it is to stop."""

from __future__ import annotations

import logging
import math
import threading
from typing import Any

from encore_core.runs.database import StoreError
from encore_core.runs.ownership import LostRun
from encore_core.runs.rows import Claim
from encore_core.runs.store import RunStore

log = logging.getLogger(__name__)

BEAT_SECONDS = 1.0


class Stopped(Exception):
    """The run has been asked to stop; carries "cancel" or "interrupt"."""


class Pulse:
    """Tells the store every second that a run lives and what it does, and hears from it whether it is to stop.

    A thread of its own, so that a long step of the run does not look like its death.

        with Pulse(store, claim) as pulse:
            pulse.tell(phase="editing", step=3)
            pulse.check()                        # raises Stopped
    """

    def __init__(self, store: RunStore, claim: Claim, seconds: float = BEAT_SECONDS):
        self.store, self.claim, self.seconds = store, claim, seconds
        self._detail: dict[str, Any] = {}
        self._stop: str | None = None
        self._lost = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"pulse of {claim.id}", daemon=True)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._over.set()
        self._thread.join()

    def tell(self, **detail: Any) -> None:
        """Say what the run does; values that stay are kept, None takes one away."""
        merged = self._detail | detail
        self._detail = {name: value for name, value in merged.items() if value is not None and _is_plain(value)}

    def ask(self, stop: str) -> None:
        """Ask the run to stop, as `store.cancel` and `store.interrupt` do."""
        self._stop = self._stop or stop

    def show(self, what: str, share: float) -> None:
        """Say how far a phase is, from 0 to 1, and go on, or not.

        Raises:
            Stopped, LostRun: as `check`.
        """
        self.tell(what=what, share=round(share, 3))
        self.check()

    def check(self) -> None:
        """Go on, or not.

        Raises:
            Stopped: when the run has been asked to stop.
            LostRun: when it is no longer this process's.
        """
        if self._lost:
            raise LostRun(self.claim.id)
        if self._stop:
            raise Stopped(self._stop)

    def _beat(self) -> None:
        while not self._over.wait(self.seconds):
            try:
                stop = self.store.beat(self.claim, self._detail)
            except LostRun:
                self._lost = True
                return
            except StoreError as error:
                # A full disk or a busy store is the run's to meet, in its own transactions.
                log.warning("No sign of life could be written: %s", error)
            except Exception:
                # Whatever it is, the next beat is tried: a run that hears nothing any more cannot be stopped.
                log.exception("No sign of life could be written.")
            else:
                self._stop = self._stop or stop


def _is_plain(value: Any) -> bool:
    """Whether JSON takes a value; a loss that is not a number it does not."""
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
