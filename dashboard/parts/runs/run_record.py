"""The record of one run: how it stands, what can be done with it, and everything about it behind tabs."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from dashboard.elements import widgets
from dashboard.parts.run import live
from dashboard.parts.runs import actions, downloads, edited_model, settings_table
from dashboard.reading import run_frames
from dashboard.reading.run_words import STATUS, duration, label, left_out, moment, seconds_an_edit
from dashboard.visitors.messages import Message
from encore_core.errors import InputError
from encore_core.runs import RunInfo, RunStore
from encore_core.runs.export import command_line


def show(store: RunStore, run: RunInfo, runs: Sequence[RunInfo]) -> None:
    """Everything about a run, and what can be done with it."""
    with st.container(border=True, key="card_record"):
        widgets.heading(label(run), f"queued {moment(run.created)}")
        _head(run)
        actions.offer(store, run, runs)
        names = ["Settings", "Notices and log", "Downloads", "Edited model"]
        settings, told, files, model = st.tabs(names, key="record_tabs", on_change="rerun")
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


def _head(run: RunInfo) -> None:
    symbol, word, tone = STATUS[run.status]
    seconds = run_frames.seconds_of_edits(run)
    per_edit = f"{seconds_an_edit(seconds)} s an edit (median)" if seconds is not None else ""
    widgets.tiles(
        [
            (
                "Status",
                f"{symbol}\u00a0{word}",
                live.doing(run) or f"since {moment(run.finished or run.created)}",
                tone,
            ),
            (
                "Edits",
                f"{run.done:,}",
                f"of {run.n_edits:,}" + (f", {run.skipped:,} skipped" if run.skipped else ""),
                "",
            ),
            ("Editing", duration(run.editing_seconds), per_edit, ""),
            ("Measuring", duration(run.measuring_seconds), "at checkpoints", ""),
        ]
    )
    if run.stop and run.status == "running":
        widgets.notice(Message("info", "The worker has been told to stop; it does so within the batch it is at."))
    if run.error:
        widgets.notice(Message("error" if run.status == "failed" else "warning", run.error))
    try:
        command = command_line(run.plan)
    except InputError as error:  # a plan that another version wrote
        widgets.notice(Message("warning", str(error)))
        return
    st.caption("The command that repeats it")
    st.code(command, language=None, wrap_lines=True)


def _told(store: RunStore, run: RunInfo) -> None:
    if run.notices:
        widgets.notice(Message("info", "\n".join(run.notices)))
    lines = left_out([str(text) for text in run_frames.read("checkpoints", [run])["left_out"]])
    if lines:
        widgets.notice(Message("info", "\n".join(lines)))
    st.caption("The last lines of its log")
    text = store.read_log(run.id, 100)
    st.code(text or "Nothing has been logged yet.", language=None, height=380, wrap_lines=True)
