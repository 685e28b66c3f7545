"""The page Run opened to watch runs: nobody waits for a model for that."""

from __future__ import annotations

import streamlit as st

from encore_core.errors import InputError
from encore_core.runs import RunStore

WITH_MODEL = "run_with_model"


def is_wanted() -> bool:
    """Whether a run is named in the address, or under way, and no model has been asked for."""
    if st.session_state.get(WITH_MODEL):
        return False
    try:
        return "run" in st.query_params or any(not run.ended for run in RunStore().runs())
    except InputError:  # the page itself says what is wrong with the store
        return False


def offer_model() -> None:
    """In the place of the fields for new runs: a button that loads the model."""
    st.caption("New runs need the model, which has not been loaded yet. Watching them does not.")
    st.button("Load the model", key="load_for_runs", on_click=_ask)


def _ask() -> None:
    st.session_state[WITH_MODEL] = True
