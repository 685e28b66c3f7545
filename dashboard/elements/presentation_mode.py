"""Whether this browser session presents, and how much larger everything is then (see `talk.presenter`)."""

from __future__ import annotations

import streamlit as st

ON = "presenting"
"""Its key in the session state."""

LARGER = 1.3
"""The factor by which type and charts grow."""


def is_on() -> bool:
    """Whether this browser session presents."""
    return bool(st.session_state.get(ON))


def scale() -> float:
    """The factor by which charts are enlarged."""
    return LARGER if is_on() else 1.0
