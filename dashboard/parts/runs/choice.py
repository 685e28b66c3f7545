"""Which run is opened: the search, the list of runs, and the box below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from dashboard.elements import widgets
from dashboard.parts.runs import run_list
from dashboard.reading import recorded_choice, run_frames
from dashboard.reading.run_words import label
from dashboard.visitors.messages import Message
from dashboard.visitors.widget_state import remembered
from encore_core.runs import RunInfo


def restore(asked: Mapping[str, Sequence[str]] | None) -> None:
    """Open the run that a link asks for (`run=`)."""
    if asked is not None and asked.get("run"):
        st.session_state["opened_run"] = asked["run"][0]
        st.session_state["runs_search"] = ""


def pick(runs: Sequence[RunInfo]) -> RunInfo | None:
    """The run that is opened, if any."""
    known = {run.id: run for run in runs}
    opened = st.session_state.get("opened_run")
    if opened is not None and opened not in known:
        widgets.notice(Message("warning", f"There is no run {opened} in this store; it may have been deleted."))
        st.session_state["opened_run"] = None
    remembered("runs_search", "")
    search = st.text_input(
        "Search",
        key="runs_search",
        placeholder="words of name, method, model, tag, status or id",
        icon=":material/search:",
        live=True,
        persist_state="session",
    )
    found = run_frames.all_runs(search) if search.strip() else runs
    if found:
        run_list.show(found, st.session_state.get("opened_run"), _open)
    else:
        widgets.notice(Message("info", f"No run has all of these words: {search}"))
    if said := recorded_choice.missing(runs):
        st.caption(said)
    st.selectbox(
        "Open a run",
        list(known),
        key="opened_run",
        format_func=lambda run: label(known[run]),
        index=None,
        placeholder="Pick one here, or click anywhere in its row",
        persist_state="session",
    )
    opened = st.session_state["opened_run"]
    return None if opened is None else known[opened]


def _open(run_id: str) -> None:
    st.session_state["opened_run"] = run_id
