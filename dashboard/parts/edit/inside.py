"""The microscope on the Edit page: folded away until somebody looks, so that nothing is computed for nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from dashboard.parts import microscope
from dashboard.visitors.comparison import Comparison
from dashboard.visitors.widget_state import remembered
from encore_core.editing.session import EditSession
from encore_core.facts import Fact

OPEN = "inside_open"


def restore(asked: Mapping[str, Sequence[str]]) -> None:
    """Take what a link asks for: a view of the microscope, which is then open."""
    microscope.restore(asked)
    if "inside" in asked or "moment" in asked:
        st.session_state[OPEN] = True


def view() -> dict[str, str]:
    """The query of a link to the microscope as it is; empty while it is folded away."""
    if not st.session_state.get(OPEN):
        return {}
    return {"inside": "lens"} | microscope.view()


def show(session: EditSession, fact: Fact, prompt: str) -> None:
    """Look into a session's model.

    Args:
        session: the edits.
        fact: whose answers are followed.
        prompt: what the model reads, the fact's or any other.
    """
    remembered(OPEN, False)
    with st.expander("Look inside: which layer says what, before and after", icon=":material/biotech:", key=OPEN,
                     on_change="rerun") as box:  # fmt: skip
        if box.open:
            _show(session, fact, prompt)


def show_compared(comparison: Comparison, fact: Fact, prompt: str) -> None:
    """Look into the model of one column."""
    sessions = {column.label: column.session for column in comparison.columns if column.session is not None}
    if not sessions:
        return
    remembered(OPEN, False)
    with st.expander("Look inside one of them", icon=":material/biotech:", key=OPEN, on_change="rerun") as box:
        if not box.open:
            return
        if st.session_state.get("inside_column") not in sessions:
            st.session_state["inside_column"] = next(iter(sessions))
        label = st.segmented_control("Model of", list(sessions), key="inside_column", required=True)
        _show(sessions[label], fact, prompt)


def _show(session: EditSession, fact: Fact, prompt: str) -> None:
    microscope.show(
        microscope.Looked(
            session.lm, prompt, fact.target_new, fact.target_true, fact if prompt == fact.text else None, session,
            tuple(session.settings.layers),
        )
    )  # fmt: skip
