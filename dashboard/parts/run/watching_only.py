"""The page Run opened to watch runs: nobody waits for a model for that."""

from __future__ import annotations

import streamlit as st

from encore_core.errors import InputError
from encore_core.runs import RunStore


def is_wanted() -> bool:
    """Whether a run is named in the address, or under way, and the fields for new ones have not been opened."""
    if st.session_state.get("new_runs"):
        return False
    try:
        return "run" in st.query_params or any(not run.ended for run in RunStore().runs())
    except InputError:  # the page itself says what is wrong with the store
        return False
