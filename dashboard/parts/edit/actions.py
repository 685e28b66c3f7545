"""Apply, Compare, Undo and Reset: a press is noted, and the next run of the page carries it out."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard.elements import widgets
from dashboard.parts.edit.compare_form import arms
from dashboard.parts.edit.fact_form import facts_in_editor
from dashboard.parts.edit.prediction import is_covered
from dashboard.visitors.messages import Message
from dashboard.visitors.models import models
from dashboard.visitors.visitor import Asked, Visitor
from encore_core.errors import InputError

TOLD_SECONDS = 0.25
"""Seconds between two reports of progress."""


def buttons(visitor: Visitor, ready: bool) -> None:
    """Draw Apply, Compare, Undo and Reset, and carry out what was pressed.

    Args:
        visitor: whose edits.
        ready: whether the method can be applied as it is.
    """
    busy, comparison = visitor.is_busy, visitor.comparison
    # Beside a comparison they stand in one row, so that the columns are in sight.
    in_row = comparison is not None
    width = "content" if in_row else "stretch"
    with st.container(key="actions", horizontal=in_row):
        if comparison is None:
            is_table = st.session_state["source"] == "Table"
            apply, compare = ("Apply edits" if is_table else "Apply edit"), f"Compare {len(arms())} methods"
        else:
            apply, compare = f"Edit with all {len(comparison.columns)}", "Compare again"
        st.button(apply, type="primary", key="apply", shortcut="Ctrl+Enter", width=width,
                  disabled=busy or not ready, on_click=_ask, args=(visitor, "apply"))  # fmt: skip
        st.button(
            compare, icon=":material/view_column:", key="compare", width=width, disabled=busy or len(arms()) < 2,
            on_click=_ask, args=(visitor, "compare"),
            help="Edit the same fact with each of these methods, all on the unedited model, and see them side by side.",
        )  # fmt: skip
        places = [nullcontext(), nullcontext()] if in_row else st.columns(2)
        undoable = visitor.session.history if comparison is None else comparison.n_edits
        with places[0]:
            st.button("Undo last", icon=":material/undo:", key="undo", width=width, disabled=busy or not undoable,
                      on_click=_ask, args=(visitor, "undo"))  # fmt: skip
        with places[1]:
            st.button("Reset", icon=":material/restart_alt:", key="reset", width=width,
                      on_click=_ask, args=(visitor, "reset"))  # fmt: skip
        if comparison is not None:
            st.button("Close the comparison", icon=":material/close:", key="close_comparison", width=width,
                      disabled=busy, on_click=visitor.close_comparison)  # fmt: skip
        _do_asked(visitor, ready)


def outcome(visitor: Visitor) -> DeltaGenerator:
    """The progress of a job with Stop, or how the last action ended. Returns the place for the progress bar."""
    place = st.empty()
    if visitor.is_busy:
        st.button("Stop", key="stop", on_click=visitor.cancel)
    tells = ("success", "warning")  # what an edit came to, with or without a notice
    is_given_away = is_covered(visitor) and visitor.message is not None and visitor.message.kind in tells
    widgets.notice(Message("success", "Done. The result is covered.") if is_given_away else visitor.message)
    return place


def teller(place: DeltaGenerator) -> Callable[[str, float], None]:
    """What shows progress in a place: a few times a second, because the browser draws on the cores that edit."""
    told = -TOLD_SECONDS

    def tell(words: str, share: float) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told >= TOLD_SECONDS:
            place.progress(min(1.0, share), text=words)
            told = now

    return tell


def _ask(visitor: Visitor, what: Asked) -> None:
    """Note what a button asks for; this is its callback.

    The page run that a press starts may never reach the button: another run can end it first, or redraw only the form
    of a typed fact. So a press is noted, and the next run of the whole page carries it out. The callback itself could
    not show that the visitor waits in line.
    """
    visitor.asked = what


def _do_asked(visitor: Visitor, ready: bool) -> None:
    if visitor.asked is None:
        return
    if visitor.asked == "undo":
        visitor.undo()
    elif visitor.asked == "reset":
        visitor.reset()
    elif visitor.asked == "retract":
        visitor.retract()
    elif visitor.asked == "compare":
        _begin(visitor, side_by_side=True)
    elif ready:
        _begin(visitor)
    # Call neither Streamlit nor its session state before this line: a rerun could do the same work twice.
    visitor.asked = None
    st.rerun()


def _begin(visitor: Visitor, side_by_side: bool = False) -> None:
    known = "skip" if st.session_state["source"] == "Table" else "refuse"
    batch_size = st.session_state.get("batch_size", 20)
    try:
        facts = facts_in_editor()
        if side_by_side:
            held = visitor.comparison.n_sessions if visitor.comparison else 0
            models().check_sessions(len(arms()) - held)
            visitor.compare(arms(), int(st.session_state["seed"]), facts, batch_size, known)
        else:
            visitor.begin(facts, batch_size, known)
    except InputError as error:
        visitor.message = Message("error", str(error))
