"""Apply, Undo and Reset: a press is noted, and done by the next run of the page."""

from __future__ import annotations

from typing import Literal

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard.elements import widgets
from dashboard.parts.edit.fact_form import facts_in_editor
from dashboard.parts.edit.prediction import is_covered
from dashboard.visitors.messages import Message
from dashboard.visitors.visitor import Visitor
from encore_core.errors import InputError


def buttons(visitor: Visitor, ready: bool) -> DeltaGenerator:
    """Apply, Undo, Reset and how they went. Returns the place for the progress of a job."""
    busy = visitor.job is not None
    with st.container(key="actions"):
        st.button(
            "Apply edit" if st.session_state["source"] != "Table" else "Apply edits",
            type="primary", key="apply", shortcut="Ctrl+Enter", width="stretch", disabled=busy or not ready,
            on_click=_ask, args=(visitor, "apply"),
        )  # fmt: skip
        undo, reset = st.columns(2)
        undo.button(
            "Undo last", icon=":material/undo:", key="undo", width="stretch",
            disabled=busy or not visitor.session.history, on_click=_ask, args=(visitor, "undo"),
        )  # fmt: skip
        reset.button("Reset", icon=":material/restart_alt:", key="reset", width="stretch",
                     on_click=_ask, args=(visitor, "reset"))  # fmt: skip
        _do_asked(visitor, ready)
        place = st.empty()
        if busy:
            st.button("Stop", key="stop", on_click=visitor.cancel, width="stretch")
        is_given_away = is_covered(visitor) and visitor.message is not None and visitor.message.kind == "success"
        widgets.notice(Message("success", "Done. What came of it is covered.") if is_given_away else visitor.message)
    return place


def _ask(visitor: Visitor, what: Literal["apply", "undo", "reset"]) -> None:
    """Note what a button asks for, as its callback.

    The run of the page that a press begins is not sure to come to the button: another run can end it before, and one
    that is begun by Ctrl+Enter in a field not yet sent redraws the form of a typed fact alone. So a press is noted, and
    done by the next run of the whole page; not in the callback, which cannot show that one stands in line.
    """
    visitor.asked = what


def _do_asked(visitor: Visitor, ready: bool) -> None:
    if visitor.asked is None:
        return
    if visitor.asked == "undo":
        visitor.undo()
    elif visitor.asked == "reset":
        visitor.reset()
    elif ready:
        _begin(visitor)
    # No call to Streamlit, nor its session state, before this line: a rerun could otherwise do the same twice.
    visitor.asked = None
    st.rerun()


def _begin(visitor: Visitor) -> None:
    is_table = st.session_state["source"] == "Table"
    try:
        facts = facts_in_editor()
        visitor.begin(facts, st.session_state.get("batch_size", 20), "skip" if is_table else "refuse")
    except InputError as error:
        visitor.message = Message("error", str(error))
