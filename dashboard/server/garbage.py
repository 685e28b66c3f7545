"""Python's garbage collector: what it passes over, and when it runs.

Streamlit collects after every run of a page's script. That looks at every object there is: with torch, transformers and
plotly some 460,000, which takes 0.2 s on two cores, twice for every press of a button that starts work, while no other
thread can run. The libraries stay, so collections pass over them. What is left still takes 0.1 s, so Streamlit's own
collection is switched off (`runner.postScriptGC` in .streamlit/config.toml), and the server collects when no page runs.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

IDLE_SECONDS = 1.0
"""Seconds after the end of a page's script, while no other runs, until there is a collection."""

LONGEST_SECONDS = 30.0
"""Seconds of pages running one after another, or at the same time, after which there is a collection anyway."""


def set_aside_what_lives() -> None:
    """Let later collections pass over all objects that are alive now; call it before there are visitors."""
    gc.collect()
    gc.freeze()


def look_through_what_was_set_aside() -> None:
    """Collect what has become garbage among it: a visitor who came while the libraries were read, and has left."""
    if gc.get_freeze_count():
        gc.unfreeze()
        set_aside_what_lives()


class Collections:
    """Collects when no page has run for a moment, and at the latest `longest` seconds after the first that ran.

    Args:
        idle, longest: see `IDLE_SECONDS`, `LONGEST_SECONDS`.
    """

    def __init__(self, idle: float = IDLE_SECONDS, longest: float = LONGEST_SECONDS) -> None:
        self._idle, self._longest = idle, longest
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._running = 0
        self._due: float | None = None

    @contextmanager
    def page_runs(self) -> Iterator[None]:
        """While the `with` block runs, no collection begins, unless one is overdue."""
        with self._lock:
            self._running += 1
            if self._due is None:
                self._due = time.monotonic() + self._longest
            self._start(self._due - time.monotonic())
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                if self._due is not None:
                    left = self._due - time.monotonic()
                    self._start(left if self._running else min(self._idle, left))

    def _start(self, seconds: float) -> None:
        """Collect after some seconds, instead of when it was to be before. The caller holds the lock."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(max(0.0, seconds), self._collect)
        self._timer.daemon = True
        self._timer.start()

    def _collect(self) -> None:
        with self._lock:
            if self._timer is not threading.current_thread():  # cancelled too late
                return
            self._timer, self._due = None, None
            if self._running:
                self._due = time.monotonic() + self._longest
                self._start(self._longest)
        gc.collect()


collections = Collections()
"""Those of the server."""
