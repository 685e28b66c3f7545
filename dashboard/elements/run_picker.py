"""Choosing runs: pages that look at several runs share one choice, so that it goes along from page to page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from dashboard.elements import widgets
from dashboard.reading import run_frames
from dashboard.reading.run_words import MOST_COMPARED, label, newest_comparison
from dashboard.visitors.messages import Message
from dashboard.visitors.widget_state import remembered
from encore_core.errors import InputError
from encore_core.runs import RunInfo
from encore_core.runs.compare import differences

FOLLOW_SECONDS = 2.0


def measured_runs() -> dict[str, RunInfo]:
    """Runs that have come to their first checkpoint, by id: the store's own, then the recorded ones.

    Raises:
        InputError: when the store cannot be read.
    """
    return {run.id: run for run in run_frames.all_runs() if run.measuring_seconds}


def restore(asked: Mapping[str, Sequence[str]], known: Mapping[str, RunInfo]) -> None:
    """Choose the runs that a link asks for (`run=`). One that is not there is said by `pick`, and left out."""
    if "run" in asked:
        wanted = list(dict.fromkeys(asked["run"]))
        st.session_state["chosen_runs"] = [run for run in wanted if run in known][:MOST_COMPARED]
        st.session_state["runs_missing"] = [run for run in wanted if run not in known]


def pick(known: Mapping[str, RunInfo], placeholder: str = "Pick one to four runs") -> list[RunInfo]:
    """The runs as chosen; at first the newest ones that belong together.

    Args:
        known: runs that can be chosen, by id, as `measured_runs` gives them.
        placeholder: what stands where nothing is chosen.
    """
    remembered("chosen_runs", [run.id for run in newest_comparison(list(known.values()))])
    # One that was deleted in another tab is no choice any more.
    st.session_state["chosen_runs"] = [run for run in st.session_state["chosen_runs"] if run in known]
    st.multiselect(
        "Runs",
        list(known),
        key="chosen_runs",
        format_func=lambda run: label(known[run]),
        max_selections=MOST_COMPARED,
        placeholder=placeholder,
        persist_state="session",
    )
    missing = st.session_state.pop("runs_missing", [])
    if missing:
        named = ", ".join(missing[:MOST_COMPARED])
        widgets.notice(Message("warning", f"The link names runs that are not in this store: {named}."))
    return [known[run] for run in st.session_state["chosen_runs"]]


def warn_of_differences(runs: Sequence[RunInfo]) -> None:
    """Say in plain sight what besides the method differs."""
    found = differences(runs)
    if found:
        lines = "\n".join(f"{entry}" for entry in found)
        widgets.notice(
            Message(
                "warning",
                f"These runs differ in more than their method, so do not put it down to the method alone.\n{lines}",
            )
        )


def follow(runs: Sequence[RunInfo]) -> None:
    """Draw the page anew whenever one of the runs that go on has come to a checkpoint or ended."""
    if not all(run.ended for run in runs):
        _followed(runs)


@st.fragment(run_every=FOLLOW_SECONDS)
def _followed(runs: Sequence[RunInfo]) -> None:
    try:
        now = [run_frames.store_of(run).get(run.id) for run in runs]
    except InputError:  # deleted in another tab
        st.rerun()
    if [(run.status, run_frames.version(run)) for run in now] != [
        (run.status, run_frames.version(run)) for run in runs
    ]:
        st.rerun()
