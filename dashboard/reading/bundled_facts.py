"""The facts that come with the program, read once for all visitors."""

from __future__ import annotations

import streamlit as st

from encore_core.facts import Fact, read_facts


@st.cache_resource(show_spinner=False, max_entries=1)
def bundled_facts() -> tuple[Fact, ...]:
    """The example facts that come with the program; immutable, so that all visitors can share them uncopied."""
    return tuple(read_facts("bundled"))


@st.cache_resource(show_spinner="Reading the long set …", max_entries=1)
def long_facts() -> tuple[Fact, ...]:
    """The set for long runs, of more than 10,000 facts; it takes some seconds to read."""
    return tuple(read_facts("long"))
