"""What widgets keep in Streamlit's session state, so that it is there when the visitor comes back to a page."""

from __future__ import annotations

from typing import Any

import streamlit as st

KEEP: dict[str, Any] = {"persist_state": "session"}
"""Of a widget: its value is there when the visitor comes back to the page."""


def remembered(key: str, value: Any) -> Any:
    """A widget's value from the session state, set to `value` when it has none yet."""
    return st.session_state.setdefault(key, value)
