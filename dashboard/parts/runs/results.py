"""What came of one run: the outcome in words, its curves, and what it took."""

from __future__ import annotations

import streamlit as st

from dashboard.elements import widgets
from dashboard.parts.run import curves
from dashboard.reading import run_frames, run_outcome
from dashboard.reading.run_words import STATUS, doing, duration, moment, seconds_an_edit
from dashboard.visitors.messages import Message
from encore_core.errors import InputError
from encore_core.runs import RunInfo
from encore_core.runs.export import command_line


def outcome(run: RunInfo) -> None:
    """The outcome in words, and what went wrong."""
    if run.measuring_seconds:
        widgets.remark(run_outcome.outcome(run, run_frames.scores([run], "sample")))
    if run.stop and run.status == "running":
        widgets.notice(Message("info", "The worker has been told to stop; it does so within the current batch."))
    if run.error:
        widgets.notice(Message("error" if run.status == "failed" else "warning", run.error))


def show(run: RunInfo) -> None:
    """The curves, then state and times, then the command that repeats the run."""
    if run.measuring_seconds:
        curves.draw(run, "record")
    else:
        st.caption("Curves begin with the first checkpoint, which is measured before the first edit.")
    _took(run)
    try:
        command = command_line(run.plan)
    except InputError as error:  # a plan that another version wrote
        widgets.notice(Message("warning", str(error)))
        return
    st.caption("The command that repeats this run")
    st.code(command, language=None, wrap_lines=True)


def _took(run: RunInfo) -> None:
    symbol, word, tone = STATUS[run.status]
    seconds = run_frames.seconds_of_edits(run)
    per_edit = f"{seconds_an_edit(seconds)} s per edit (median)" if seconds is not None else ""
    skipped = f", {run.skipped:,} skipped" if run.skipped else ""
    widgets.tiles(
        [
            (
                "Status",
                f"{symbol}\u00a0{word}",
                doing(run) or f"since {moment(run.finished or run.created)}",
                tone,
            ),
            ("Edits", f"{run.done:,}", f"of {run.n_edits:,}{skipped}", ""),
            ("Editing", duration(run.editing_seconds), per_edit, ""),
            ("Measuring", duration(run.measuring_seconds), "at checkpoints", ""),
        ]
    )
