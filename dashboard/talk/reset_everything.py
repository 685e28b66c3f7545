"""Reset everything: take back what a visitor has done in this browser session, and say what that was."""

from __future__ import annotations

import logging
from typing import Literal

import streamlit as st

from dashboard import page_list
from dashboard.elements import widgets
from dashboard.talk import lesson_play, tour
from dashboard.visitors import access, browser_session
from dashboard.visitors.messages import Message
from dashboard.visitors.visitor import Visitor

log = logging.getLogger(__name__)
SAID = "what the reset did"


def offer(key: str, words: str = "Reset everything", width: Literal["content", "stretch"] = "content") -> None:
    """The button. It leads to the opening page, because fields that stay on the screen would keep what is in them.

    Args:
        key: of the button.
        words: on the popover that holds it, so that nobody hits it by mistake.
        width: of the popover.
    """
    with st.popover(words, icon=":material/restart_alt:", key=f"offer {key}", width=width):
        st.html("<p>Takes your edits back, ends the lesson and the tour, and forgets what was typed and picked.</p>")
        is_wanted = st.button("Reset everything now", key=key, type="primary")
    if is_wanted:
        everything()
        st.switch_page(page_list.script("start"))


def say() -> None:
    """What the last reset did, once."""
    widgets.notice(st.session_state.pop(SAID, None))


def everything() -> None:
    """Take back the visitor's edits and empty the session.

    It cannot fail: a visitor that cannot be reset is dropped, and enters again. The loaded model stays, and so do runs,
    which belong to everybody.
    """
    visitor: Visitor | None = st.session_state.get("visitor")
    lesson, on_tour = bool(st.session_state.get(lesson_play.PLAYED)), tour.place() is not None
    n_edits, is_fresh = _renewed(visitor) if visitor is not None else (0, False)
    keep = {key: st.session_state[key] for key in (access.GIVEN,) if key in st.session_state}
    if is_fresh:
        keep["visitor"] = visitor
    for key in list(st.session_state):
        del st.session_state[key]
    st.session_state.update(keep)
    n_edits += browser_session.forget()
    st.query_params.clear()
    did = [
        f"{n_edits} edit{'s' * (n_edits != 1)} taken back" if n_edits else "there were no edits",
        *["the lesson is ended"] * lesson,
        *["the tour is left"] * on_tour,
        "what was typed and picked is forgotten",
    ]
    words = f"Reset: {', '.join(did)}. Runs stay as they are, and those under way go on: they belong to everybody here."
    st.session_state[SAID] = Message("success", words)


def _renewed(visitor: Visitor) -> tuple[int, bool]:
    """Put a visitor back to the beginning. Returns how many edits that took back, and whether it could be done."""
    try:
        n_edits = visitor.n_edits
        visitor.renew()
    except Exception:
        log.exception("a visitor could not be reset and enters again")
        return 0, False
    return n_edits, True
