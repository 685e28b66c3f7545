"""A model being loaded, on a thread of its own: a visitor who leaves does not stop it for those who wait."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dashboard.reading.model_readings import Readings
from dashboard.server.device_queue import DeviceQueue
from encore_core.editing.session import EditSession
from encore_core.errors import InputError
from encore_core.models.editable import EditableModel, load_model

log = logging.getLogger(__name__)

DEFAULT_METHOD = "ENCORE"
EXPECTED_PARTS = 6
"""Of getting a model ready: unpacking, loading and looking through it, its statistics, prefixes, and the check of the
fast pass."""


class Loading:
    """A model being loaded, or loaded: where it stands, for everybody who waits for it.

    Attributes:
        what, share: what is being done, and how much of it, from 0 to 1.
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
            # The statistics belong to getting ready: the first edit is then as fast as any other.
            EditSession(lm, DEFAULT_METHOD).prepare(self._tell)
            self.before = Readings(lambda: _pristine(lm))
            self.lm = lm
        except InputError as error:
            self.error = str(error)
        except Exception:
            log.exception("loading %r failed", name)
            self.error = f"Model {name!r} could not be loaded; the reason is in the server's log."
        finally:
            self.done.set()

    def _tell(self, what: str, share: float) -> None:
        """What is being done, and a bar that never goes back, whatever the parts of it say of themselves."""
        # Behind a colon stands how far a part is.
        if what.partition(":")[0] != self.what.partition(":")[0]:
            self._parts += 1
            self._from = self.share
        self.what = what
        left = 1.0 - self._from
        self.share = max(self.share, self._from + left * share / max(2, EXPECTED_PARTS - self._parts))

    def wait(self, show: Callable[[str, float], None]) -> None:
        """Return when it is done; meanwhile tell where it stands a few times a second."""
        while not self.done.wait(0.2):
            show(self.what, self.share)


@contextmanager
def _pristine(lm: EditableModel) -> Iterator[EditableModel]:
    with lm.matrices_replaced({}):
        yield lm
