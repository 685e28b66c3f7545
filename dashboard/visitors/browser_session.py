"""The visitor of this browser session; it lives in Streamlit's session state, where no other session sees it."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from dashboard.visitors.models import models, usual_model
from dashboard.visitors.visitor import Visitor
from encore_core.errors import InputError


def visitor(show: Callable[[str, float], None]) -> Visitor:
    """This browser session's `Visitor`, made on its first run.

    Args:
        show: told how the loading of the model gets on.

    Raises:
        InputError: when the model cannot be loaded.
    """
    known = st.session_state.get("visitor")
    if known is None:
        loading = usual_model()
        loading.wait(show)
        if loading.error:
            raise InputError(loading.error)
        known = st.session_state["visitor"] = models().enter(loading)
    return known


def current() -> Visitor:
    """The visitor of a page: the frame has made it before any page runs."""
    return st.session_state["visitor"]
