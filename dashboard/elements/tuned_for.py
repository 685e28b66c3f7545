"""Which settings a method begins with, where a model has some for a few edits and others for thousands."""

from __future__ import annotations

import streamlit as st

from dashboard.visitors.widget_state import remembered
from encore_core.methods import lengths_of
from encore_core.tuned_rows import EDITS, Shape, TunedFor


def pick(method: str, shape: Shape, key: str) -> TunedFor:
    """Ask which; nothing is drawn where there is no choice.

    Args:
        method: a name from `methods.METHODS`.
        shape: of the model.
        key: of the widget.
    """
    lengths = lengths_of(shape, method)
    if len(lengths) == 1:
        return "few"
    if remembered(key, "few") not in lengths:
        st.session_state[key] = "few"
    return st.segmented_control(
        "Settings for",
        lengths,
        key=key,
        required=True,
        format_func=EDITS.__getitem__,
        persist_state="session",
        help="Settings that work best for one fact can harm a model after a thousand edits. The fields start "
        "with those chosen here.",
    )
