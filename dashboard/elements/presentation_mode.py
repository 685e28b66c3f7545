"""Whether this browser session presents, and how much larger everything is then (see `talk.presenter`)."""

from __future__ import annotations

import streamlit as st

ON = "presenting"
"""In the session state."""

LARGER = 1.3
"""Type and charts grow by so much."""


def is_on() -> bool:
    """Whether this browser session presents."""
    return bool(st.session_state.get(ON))


def scale() -> float:
    """What charts are enlarged by."""
    return LARGER if is_on() else 1.0
