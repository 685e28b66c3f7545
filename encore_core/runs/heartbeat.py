"""A run's pulse: it reports signs of life and progress to the store, and asks there whether to stop."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
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
    """Tells the store every second that a run is alive and what it does, and learns from it whether to stop.

    It has its own thread, so that a long step of the run does not look like its death.

        with Pulse(store, claim) as pulse:
            pulse.tell(phase="editing", step=3)
            pulse.check()                        # raises Stopped
    """

    def __init__(self, store: RunStore, claim: Claim, seconds: float = BEAT_SECONDS):
        self.store, self.claim, self.seconds = store, claim, seconds
        self._detail: dict[str, Any] = {}
        self._followed: Callable[[], dict[str, Any]] = dict
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
        """Say what the run does; other values are kept, None removes one."""
        self._detail = _plain(self._detail | detail)

    def follow(self, detail: Callable[[], dict[str, Any]]) -> None:
        """Ask for more at every beat, such as the time that is left, which changes while nothing is told."""
        self._followed = detail

    def ask(self, stop: str) -> None:
        """Ask the run to stop, as `store.cancel` and `store.interrupt` do."""
        self._stop = self._stop or stop

    def show(self, what: str, share: float) -> None:
        """Report the share of a phase that is done, from 0 to 1; raise if the run must stop.

        Raises:
            Stopped, LostRun: as `check`.
        """
        self.tell(what=what, share=round(share, 3))
        self.check()

    def check(self) -> None:
        """Raise if the run must stop.

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
                stop = self.store.beat(self.claim, self._detail | _plain(self._followed()))
            except LostRun:
                self._lost = True
                return
            except StoreError as error:
                # The run itself will report a full disk or a busy store, in its own transactions.
                log.warning("No sign of life could be written: %s", error)
            except Exception:
                # In any case try the next beat: a run that no longer hears the store cannot be stopped.
                log.exception("No sign of life could be written.")
            else:
                self._stop = self._stop or stop


def _plain(detail: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in detail.items() if value is not None and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    """Whether JSON takes a value; it does not take a loss that is NaN or infinite."""
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
