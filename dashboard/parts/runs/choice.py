"""Which run is opened: the search, the table of all runs, and the box below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from dashboard.elements import widgets
from dashboard.reading import run_frames
from dashboard.reading.run_words import duration, label, moment, short_model, status_line
from dashboard.visitors.messages import Message
from dashboard.visitors.widget_state import remembered
from encore_core.runs import RunInfo

ROW = 37  # height of a row of the table in pixels


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
        _table(found)
    else:
        widgets.notice(Message("info", f"No run has all of these words: {search}"))
    st.caption(f"{len(found)} of {len(runs)} runs" if len(found) < len(runs) else f"{len(runs)} runs")
    st.selectbox(
        "Open a run",
        list(known),
        key="opened_run",
        format_func=lambda run: label(known[run]),
        index=None,
        placeholder="Pick one here, or click its row above",
        persist_state="session",
    )
    opened = st.session_state["opened_run"]
    return None if opened is None else known[opened]


def _table(runs: Sequence[RunInfo]) -> None:
    """All runs; a click on a row opens it."""
    frame = pd.DataFrame(
        {
            "Status": [status_line(run) for run in runs],
            "Method": [run.method for run in runs],
            "Name": [run.name for run in runs],
            "Model": [short_model(run.model) for run in runs],
            "Edits": [f"{run.done:,} of {run.n_edits:,}" for run in runs],
            "Started": [moment(run.started or run.created) for run in runs],
            "Took": [duration(run.editing_seconds + run.measuring_seconds) for run in runs],
            "Tags": [", ".join(run.tags) for run in runs],
            "Id": [run.id for run in runs],
        }
    )
    st.dataframe(
        frame,
        hide_index=True,
        key="runs_table",
        selection_mode="single-row",
        on_select=_open_selected,
        row_height=ROW,
        height=min(ROW * (len(runs) + 1) + 4, 440),
        alt="All runs; the box below opens one, too.",
    )
    st.session_state["runs_listed"] = [run.id for run in runs]


def _open_selected() -> None:
    chosen = st.session_state["runs_table"]["selection"]["rows"]
    listed = st.session_state.get("runs_listed", [])
    if chosen and chosen[0] < len(listed):
        st.session_state["opened_run"] = listed[chosen[0]]
