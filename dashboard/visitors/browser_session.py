"""The visitor of this browser session; it lives in Streamlit's session state, where no other session sees it.

A reload begins a new session. It takes over the visitor that the page before it has left, with what was typed there, if
the browser has a secret (`server.browser_cookie`); without one a reload begins afresh.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st
from streamlit import runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from dashboard.server import browser_cookie
from dashboard.visitors.messages import Message
from dashboard.visitors.models import models, usual_model
from dashboard.visitors.visitor import Visitor
from encore_core.errors import InputError

FIELDS = frozenset((
    "source", "relation", "known_only", "gallery_search", "example", "pasted", "limit", "batch_size",
    "subject", "prompt", "target_new", "target_true", "paraphrases", "neighbours", "free_prompt",
    "more_prompts", "gallery_first", "method", "seed", "model_name", "model_device", "model_dtype",
    "methods compared", "own columns", "judge_who", "judge_where", "judge_model", "judge_seconds",
))  # fmt: skip
"""What comes back after a reload besides the edits: keys of the session state."""
PREFIXES = ("setting ", "view in the address of edit")
"""Beginnings of further ones: a method's settings, and the address, which would otherwise be read as a link that brings
back what fits into an address only."""


def visitor(show: Callable[[str, float], None]) -> Visitor:
    """This browser session's `Visitor`: the one it has, the one that the page before a reload has left, or a new one.

    Args:
        show: gets the progress of loading the model.

    Raises:
        InputError: when the model cannot be loaded, or there is no room.
    """
    known = st.session_state.get("visitor")
    said = None
    if known is not None and (said := _why_lost(known)) is None:
        remember()
        return known
    found = None if said is not None else _taken_back()
    if found is None:
        loading = usual_model()
        loading.wait(show)
        if loading.error:
            raise InputError(loading.error)
        found = models().enter(loading)
        found.message = said
    st.session_state["visitor"] = found
    remember()
    return found


def current() -> Visitor:
    """The visitor of a page; the frame makes it before any page that uses a model runs."""
    return st.session_state["visitor"]


def remember() -> None:
    """Note what is typed and picked, so that it comes back after a reload."""
    browser, known = this_browser(), st.session_state.get("visitor")
    if browser is None or known is None:
        return
    state = st.session_state
    fields = {key: state[key] for key in state if key in FIELDS or str(key).startswith(PREFIXES)}
    models().kept.put(*browser, known, fields)


def forget() -> int:
    """Keep nothing of this browser, but for what has an open page elsewhere. Returns how many edits that dropped."""
    browser = this_browser()
    return 0 if browser is None else models().forget(*browser)


def this_browser() -> tuple[bytes, str] | None:
    """(hash of the browser's secret, id of this Streamlit session); None for a browser without a secret."""
    context = get_script_run_ctx()
    if context is None or not runtime.exists():
        return None
    key = browser_cookie.key_of(st.context.cookies)
    return None if key is None else (key, context.session_id)


def _why_lost(known: Visitor) -> Message | None:
    """Why this session has its visitor no longer, in words; None if it still has."""
    browser = this_browser()
    if browser is None:
        return None
    holder = models().kept.holder(known)
    if holder is not None and holder != browser[1]:
        return Message("info", "Your edits went on in another tab of this browser. This page begins afresh.")
    if known not in models().visitors:
        return Message("info", "The server was full while this page was away, and your edits had to go. "
                       "The model is as it was loaded.")  # fmt: skip
    return None


def _taken_back() -> Visitor | None:
    """The visitor that an earlier page of this browser has left, with its fields."""
    browser = this_browser()
    kept = None if browser is None else models().kept.take(*browser)
    if kept is None:
        return None
    _fill(kept.fields)
    found, n_edits = kept.visitor, kept.visitor.session.n_edits
    are = "edit is" if n_edits == 1 else f"{n_edits} edits are"
    found.message = Message("info", f"Your {are} still here.") if n_edits else None
    found.left_line = False
    return found


def _fill(fields: dict[str, Any]) -> None:
    for key, value in fields.items():
        st.session_state.setdefault(key, value)
