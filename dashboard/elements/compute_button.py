"""A button that has the model compute something, and what it found: kept until the model or its edits change."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import streamlit as st

from dashboard.elements import widgets
from dashboard.visitors import browser_session
from dashboard.visitors.messages import Message
from dashboard.visitors.visitor import Visitor
from encore_core.errors import InputError

log = logging.getLogger(__name__)

Show = Callable[[str, float], None]


@dataclass(frozen=True)
class Found:
    """What was computed.

    Attributes:
        about: what it was computed for.
        state: of the model then, see `_state`.
        result: what came out.
    """

    about: Hashable
    state: tuple[object, ...]
    result: Any


def ask(
    key: str, words: str, about: Hashable, work: Callable[[Visitor, Show], Any], *, disabled: bool = False
) -> Any | None:
    """A button, and what it found last, as long as that still holds.

    Args:
        key, words, work, disabled: as for `button`.
        about: what the result depends on besides the model and its edits.

    Returns:
        what was found for `about` on the model as it is; None before that.
    """

    def kept(visitor: Visitor, show: Show) -> None:
        result = work(visitor, show)
        st.session_state[f"{key}_found"] = Found(about, _state(visitor), result)

    button(key, words, kept, disabled=disabled)
    return known(key, about)


def button(key: str, words: str, work: Callable[[Visitor, Show], None], *, disabled: bool = False) -> None:
    """A button, the progress of what it starts, and one line when that fails.

    Args:
        key: names it in the session.
        words: on the button; without a model it says that one is loaded first.
        work: computes and keeps something; it is given a function that shows progress.
        disabled: whether there is nothing to compute.
    """
    is_there = "visitor" in st.session_state
    label = words if is_there else f"Load the model and {words[0].lower()}{words[1:]}"
    asked = st.button(label, type="primary", key=key, disabled=disabled)
    if not is_there:
        st.caption("Loading takes some seconds; at the first start of the program up to a minute.")
    if asked:
        _compute(key, work)
        st.rerun()  # the frame's sidebar and this page's buttons show what is there now
    widgets.notice(st.session_state.pop(f"{key}_trouble", None))


def known(key: str, about: Hashable) -> Any | None:
    """What was found for `about`, if the model and its edits are still the same; otherwise a notice."""
    found: Found | None = st.session_state.get(f"{key}_found")
    if found is None or "visitor" not in st.session_state:
        return None
    if found.about == about and found.state == _state(browser_session.current()):
        return found.result
    words = "The fields above, your model or its edits have changed since this was computed; press the button again."
    widgets.notice(Message("info", words))
    return None


def _state(visitor: Visitor) -> tuple[object, ...]:
    """What a result depends on: the readings, which are replaced once the model or its edits have changed, and what the
    next edit would be made with."""
    return visitor.after, visitor.session.settings, visitor.session.seed


def _compute(key: str, work: Callable[[Visitor, Show], None]) -> None:
    bar = st.progress(0.0, text="Getting the model ready …")

    def show(what: str, share: float) -> None:
        bar.progress(min(1.0, max(0.0, share)), text=f"{what} …")

    try:
        work(browser_session.visitor(show), show)
    except InputError as error:
        st.session_state[f"{key}_trouble"] = Message("error", str(error))
    except Exception:
        log.exception("the Learn page could not compute %r", key)
        words = "This failed inside the program; your edits are as they were. The reason is in the server's log."
        st.session_state[f"{key}_trouble"] = Message("error", words)
    bar.empty()
