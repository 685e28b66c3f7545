"""The example facts that come with the program, read once for all visitors."""

from __future__ import annotations

import streamlit as st

from encore_core.facts import Fact, read_facts


@st.cache_resource(show_spinner=False, max_entries=1)
def bundled_facts() -> tuple[Fact, ...]:
    """The example facts that come with the program; immutable, so that all visitors can share them uncopied."""
    return tuple(read_facts("bundled"))
