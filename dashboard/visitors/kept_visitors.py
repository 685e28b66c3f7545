"""Visitors that wait for their browser to come back: after a reload, or when a tab was closed by mistake.

A visitor belongs to one Streamlit session, and a reload begins another one. So a visitor whose browser has a secret
(`server.browser_cookie`) is held here, under the hash of that secret, together with what was in the fields of the page.
As long as the session's socket is open nobody else gets it; once it is closed, the next session of the same browser
that has no visitor yet takes it over. The file of limits says for how long a visitor waits.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dashboard.server import limits
from dashboard.visitors.visitor import Visitor
from encore_core.errors import InputError

log = logging.getLogger(__name__)

LOOK_SECONDS = 20.0
"""Seconds between two looks at who has gone, so that memory is freed when nobody comes any more, too."""


@dataclass
class Kept:
    """A visitor and what belongs to it.

    Attributes:
        key: hash of its browser's secret.
        session: id of the Streamlit session that has it.
        visitor: its edits.
        fields: what was typed and picked, as in the session state.
        left: when its session was first seen without a browser, in seconds of the clock; None while it has one.
    """

    key: bytes
    session: str
    visitor: Visitor
    fields: dict[str, Any] = field(default_factory=dict)
    left: float | None = None


class KeptVisitors:
    """The visitors of all browsers that have a secret.

    Args:
        is_open: whether a Streamlit session has a browser now.
        clock: seconds that only grow.
    """

    def __init__(self, is_open: Callable[[str], bool], clock: Callable[[], float] = time.monotonic):
        self._is_open, self._clock = is_open, clock
        self._kept: dict[Visitor, Kept] = {}
        self._lock = threading.RLock()
        self._looks = False

    def put(self, key: bytes, session: str, visitor: Visitor, fields: Mapping[str, Any]) -> None:
        """Hold a visitor, or note anew what is in its fields. A script of a page that has lost it changes nothing.

        Args:
            key: hash of its browser's secret.
            session: id of the Streamlit session that has it.
            visitor: the visitor.
            fields: what to give back with it.
        """
        with self._lock:
            known = self._kept.get(visitor)
            if known is not None and known.session != session:
                return
            if not _minutes():
                self._kept.pop(visitor, None)
                return
            for other in [one.visitor for one in self._kept.values() if one.session == session]:
                del self._kept[other]  # a session has one visitor
            self._kept[visitor] = Kept(key, session, visitor, dict(fields))
            self._look_regularly()

    def take(self, key: bytes, session: str) -> Kept | None:
        """The visitor of this browser that has lost its page last, which belongs to `session` from now on.

        Returns:
            None when there is none, or each has an open page.
        """
        with self._lock:
            self.look()
            waiting = [one for one in self._kept.values() if one.key == key and one.left is not None]
            if not waiting:
                return None
            found = max(waiting, key=lambda one: one.left)
            found.session, found.left = session, None
            return found

    def holder(self, visitor: Visitor) -> str | None:
        """The session that a visitor belongs to; None if it is not held here."""
        with self._lock:
            found = self._kept.get(visitor)
            return None if found is None else found.session

    def forget(self, key: bytes, session: str) -> list[Visitor]:
        """Let go of what a session has, and of the visitors of its browser whose pages are gone.

        Args:
            key: hash of the browser's secret.
            session: id of the Streamlit session.

        Returns:
            those whose pages are gone.
        """
        with self._lock:
            self.look()
            all_of_it = [one for one in self._kept.values() if one.key == key]
            gone = [one.visitor for one in all_of_it if one.left is not None]
            for one in all_of_it:
                if one.left is not None or one.session == session:
                    del self._kept[one.visitor]
            return gone

    def give_up(self) -> Visitor | None:
        """Let go of the visitor that has waited longest without a browser; None when all have one."""
        with self._lock:
            self.look()
            waiting = [one for one in self._kept.values() if one.left is not None]
            if not waiting:
                return None
            visitor = min(waiting, key=lambda one: one.left).visitor
            del self._kept[visitor]
            return visitor

    def waiting(self) -> int:
        """How many wait without a browser."""
        with self._lock:
            self.look()
            return sum(one.left is not None for one in self._kept.values())

    def look(self) -> None:
        """Note who has lost the browser since the last look, and let go of those whose time is over."""
        with self._lock:
            now, minutes = self._clock(), _minutes()
            for one in list(self._kept.values()):
                if self._is_open(one.session):
                    one.left = None
                elif one.left is None:
                    one.left = now
                if one.left is not None and now - one.left >= 60 * minutes:
                    del self._kept[one.visitor]

    def _look_regularly(self) -> None:
        if not self._looks:
            self._looks = True
            threading.Thread(target=_look, args=(weakref.ref(self),), name="kept visitors", daemon=True).start()


def _look(of: weakref.ref[KeptVisitors]) -> None:
    """Look every few seconds, as long as anybody is held."""
    while True:
        time.sleep(LOOK_SECONDS)
        kept = of()
        if kept is None:
            return
        with kept._lock:
            try:
                kept.look()
            except Exception:
                log.exception("looking for visitors who have left failed")
            if not kept._kept:
                kept._looks = False
                return
        del kept


def _minutes() -> int:
    """How long a visitor waits; none is held while the limits cannot be read."""
    try:
        return limits.limits().visitors.keep_minutes
    except InputError:
        return 0
