"""The record of one run: what came of it, what can be done with it, and everything else in tabs."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from dashboard.elements import widgets
from dashboard.parts.runs import actions, downloads, edited_model, results, settings_table
from dashboard.reading import run_frames
from dashboard.reading.run_words import label, left_out, moment
from dashboard.visitors.messages import Message
from encore_core.runs import RunInfo, RunStore


def show(store: RunStore, run: RunInfo, runs: Sequence[RunInfo]) -> None:
    """Everything about a run, and what can be done with it."""
    with st.container(border=True, key="card_record"):
        widgets.heading(label(run), f"queued {moment(run.created)}")
        results.outcome(run)
        actions.offer(store, run, runs)
        names = ["Results", "Settings", "Notices and log", "Downloads", "Edited model"]
        found, settings, told, files, model = st.tabs(names, key="record_tabs", on_change="rerun")
        if found.open:
            with found:
                results.show(run)
        if settings.open:
            with settings:
                settings_table.show(run)
        if told.open:
            with told:
                _told(store, run)
        if files.open:
            with files:
                downloads.offer(store, run)
        if model.open:
            with model:
                edited_model.offer(store, run)


def _told(store: RunStore, run: RunInfo) -> None:
    if run.notices:
        widgets.notice(Message("info", "\n".join(run.notices)))
    lines = left_out([str(text) for text in run_frames.read("checkpoints", [run])["left_out"]])
    if lines:
        widgets.notice(Message("info", "\n".join(lines)))
    st.caption("The last lines of its log")
    text = store.read_log(run.id, 100)
    st.code(text or "Nothing has been logged yet.", language=None, height=380, wrap_lines=True)
