"""The models of this server: each is loaded once, and all visitors share it."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict

import streamlit as st
from streamlit import runtime

from dashboard.server import garbage, limits
from dashboard.server.device_queue import DeviceQueue
from dashboard.visitors.kept_visitors import KeptVisitors
from dashboard.visitors.model_loading import Loading
from dashboard.visitors.visitor import Visitor

DEFAULT_MODEL = "smollm2-135m"
KEPT_MODELS = 2
"""Loaded models that the server keeps for the next visitor, besides those in use."""


class Models:
    """The models of this server, each loaded once, and who uses them.

    Attributes:
        visitors: all there are. Held weakly: a visitor ends with its session, or when `kept` lets go of it.
        kept: those whose browser has a secret, and so may come back.
    """

    def __init__(self) -> None:
        self.visitors: weakref.WeakSet[Visitor] = weakref.WeakSet()
        self.kept = KeptVisitors(_has_browser)
        self._loadings: OrderedDict[tuple[str, str, str], Loading] = OrderedDict()
        self._queues: dict[str, DeviceQueue] = {}
        self._lock = threading.Lock()

    def queue(self, device: str) -> DeviceQueue:
        """The line for a device: one for all models on it."""
        with self._lock:
            return self._queues.setdefault(device, DeviceQueue())

    def queues(self) -> dict[str, DeviceQueue]:
        """Device → its line."""
        with self._lock:
            return dict(self._queues)

    def loadings(self) -> list[Loading]:
        """Models that are loaded or being loaded, including those that only visitors still hold."""
        with self._lock:
            kept = list(self._loadings.values())
        return list(dict.fromkeys([*kept, *(visitor.loading for visitor in list(self.visitors))]))

    def enter(self, loading: Loading) -> Visitor:
        """A new visitor. One who waits for a browser to come back, longest first, makes room for somebody who is there.

        Raises:
            InputError: when there is no room for one more.
        """
        with self._lock:
            self._make_room(1)
            limits.check_room(self.n_sessions())
            newcomer = Visitor(loading)
            self.visitors.add(newcomer)
            return newcomer

    def n_sessions(self) -> int:
        """Sessions that all visitors hold: one each, and one per method that they compare."""
        return sum(visitor.n_sessions for visitor in list(self.visitors))

    def check_sessions(self, n_more: int) -> None:
        """Whether there is room for more sessions of visitors who are here.

        Raises:
            InputError: when there is none.
        """
        with self._lock:
            self._make_room(n_more)
            limits.check_sessions(self.n_sessions(), n_more)

    def _make_room(self, n_more: int) -> None:
        """Dismiss kept visitors whose pages are gone, those who wait longest first, until there is room."""
        most = limits.limits().visitors.visitors
        if self.n_sessions() + n_more > most:
            # A visitor of the first seconds whom nobody holds any more may be among what the collector passes over.
            garbage.look_through_what_was_set_aside()
        while self.n_sessions() + n_more > most and (gone := self.kept.give_up()) is not None:
            self._dismiss(gone)

    def forget(self, key: bytes, session: str) -> int:
        """Keep nothing of a session, and dismiss the visitors of its browser whose pages are gone.

        Args:
            key: hash of the browser's secret.
            session: id of the Streamlit session.

        Returns:
            how many edits those had.
        """
        with self._lock:
            gone = self.kept.forget(key, session)
            n_edits = sum(visitor.n_edits for visitor in gone)
            for visitor in gone:
                self._dismiss(visitor)
            return n_edits

    def _dismiss(self, gone: Visitor) -> None:
        """Strike a visitor off, and drop its edits: Streamlit may hold it for two more minutes."""
        self.visitors.discard(gone)
        gone.renew()

    def get(self, name: str, device: str = "auto", dtype: str = "auto") -> Loading:
        """The loading of a model, started now if it was not before. A failed one is tried again."""
        key = (name, device, dtype)
        with self._lock:
            known = self._loadings.get(key)
            if known is None or known.error is not None:
                known = self._loadings[key] = Loading(*key, self.queue)
            self._loadings.move_to_end(key)
            finished = [other for other, loading in self._loadings.items() if loading.done.is_set() and other != key]
            for other in finished[: max(0, len(self._loadings) - KEPT_MODELS)]:
                del self._loadings[other]
            return known


def _has_browser(session: str) -> bool:
    """Whether a Streamlit session has a browser; after a reload the one before has none."""
    return runtime.exists() and runtime.get_instance().is_active_session(session)


@st.cache_resource(show_spinner=False, max_entries=1)
def models() -> Models:
    """The one `Models` of this server."""
    return Models()


def usual_model() -> Loading:
    """The loading of the model that visitors begin with, started now if it was not before."""
    return models().get(usual_model_name())


def usual_model_name() -> str:
    """The model that visitors begin with."""
    return os.environ.get("ENCORE_MODEL") or DEFAULT_MODEL
