"""A model being loaded, on its own thread: a visitor who leaves does not stop it for the others."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dashboard.reading.model_readings import Readings
from dashboard.reading.run_words import MAIN_METHODS
from dashboard.server.device_queue import DeviceQueue
from encore_core.editing.session import EditSession
from encore_core.errors import InputError
from encore_core.models.editable import EditableModel, load_model

log = logging.getLogger(__name__)

DEFAULT_METHOD = "ENCORE"
QUICK_SECONDS = 5.0
"""Seconds that preparing the first method may take if the others are to be prepared unasked: for a large model they
take minutes, in which no visitor could use it."""

EXPECTED_PARTS = 6
"""Parts of getting a model ready: unpacking, loading and inspecting it, its statistics, prefixes, and the check of the
fast pass."""


class Loading:
    """A model being loaded, or loaded: its progress, for everybody who waits for it.

    Attributes:
        what, share: what is being done, and the share of it done, from 0 to 1.
        lm: the model once it is there. Its lock is the line for its device.
        before: readings of the model as loaded, shared by all visitors.
        error: one line on why it could not be loaded.
        done: set in either case.
    """

    def __init__(self, name: str, device: str, dtype: str, queue_of: Callable[[str], DeviceQueue]):
        self.what, self.share = "Starting", 0.0
        self.lm: EditableModel | None = None
        self.before: Readings | None = None
        self.error: str | None = None
        self.done = threading.Event()
        self._parts, self._from = 0, 0.0
        self._queue_of = queue_of
        threading.Thread(target=self._load, args=(name, device, dtype), daemon=True).start()

    def _load(self, name: str, device: str, dtype: str) -> None:
        try:
            lm = load_model(name, device, dtype, progress=self._tell)
            lm.lock = self._queue_of(str(lm.device))
            # Prepare the statistics now, so that the first edit is as fast as any other.
            began = time.perf_counter()
            EditSession(lm, DEFAULT_METHOD).prepare(self._tell)
            took = time.perf_counter() - began
            self.before = Readings(lambda: _pristine(lm))
            self.lm = lm
        except InputError as error:
            self.error = str(error)
        except Exception:
            log.exception("loading %r failed", name)
            self.error = f"Model {name!r} could not be loaded; the reason is in the server's log."
        finally:
            self.done.set()
        if self.lm is not None and took < QUICK_SECONDS:
            self._prepare_others(lm)

    def _prepare_others(self, lm: EditableModel) -> None:
        """While the first visitor reads the page: what the first comparison would have to wait for."""
        try:
            for method in MAIN_METHODS:
                EditSession(lm, method).prepare()
        except Exception:  # such a method says why when it is asked for
            log.exception("not all methods could be prepared for %r", lm.name)

    def _tell(self, what: str, share: float) -> None:
        """Update the words and a bar that never goes back, whatever progress the parts report."""
        # After a colon comes the progress of a part.
        if what.partition(":")[0] != self.what.partition(":")[0]:
            self._parts += 1
            self._from = self.share
        self.what = what
        left = 1.0 - self._from
        self.share = max(self.share, self._from + left * share / max(2, EXPECTED_PARTS - self._parts))

    def wait(self, show: Callable[[str, float], None]) -> None:
        """Return when it is done; meanwhile report the progress a few times a second."""
        while not self.done.wait(0.2):
            show(self.what, self.share)


@contextmanager
def _pristine(lm: EditableModel) -> Iterator[EditableModel]:
    with lm.matrices_replaced({}):
        yield lm
