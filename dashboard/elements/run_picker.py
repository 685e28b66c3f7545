"""Choosing runs. Every page opens with recorded runs that answer its question; what a visitor chooses instead goes
along from page to page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from dashboard.elements import widgets
from dashboard.reading import recorded_choice, run_frames
from dashboard.reading.run_words import MOST_COMPARED, label
from dashboard.visitors.messages import Message
from dashboard.visitors.widget_state import remembered
from encore_core.errors import InputError
from encore_core.runs import RunInfo
from encore_core.runs.compare import differences

FOLLOW_SECONDS = 2.0

CHOSEN = "chosen_runs"
_BY, _USUAL = "runs chosen by", "runs at first"
"""In the session state: who chose the runs ("hand", "link", None for the page), and what each page chooses itself."""


def measured_runs() -> dict[str, RunInfo]:
    """Runs that have reached their first checkpoint, by id: the store's own, then the recorded ones.

    Raises:
        InputError: when the store cannot be read.
    """
    return {run.id: run for run in run_frames.all_runs() if run.measuring_seconds}


def restore(asked: Mapping[str, Sequence[str]], known: Mapping[str, RunInfo]) -> None:
    """Choose the runs that a link asks for (`run=`). Missing ones are left out, and `pick` names them."""
    if "run" in asked:
        wanted = list(dict.fromkeys(asked["run"]))
        st.session_state[CHOSEN] = [run for run in wanted if run in known][:MOST_COMPARED]
        st.session_state["runs_missing"] = [run for run in wanted if run not in known]
        st.session_state[_BY] = "link"


def pick(
    page: str,
    known: Mapping[str, RunInfo],
    placeholder: str = "Pick one to four runs",
    has: recorded_choice.Has = recorded_choice.anything,
) -> list[RunInfo]:
    """The runs as chosen; until somebody chooses, recorded ones that answer the page's question.

    Args:
        page: names it.
        known: runs that can be chosen, by id, as `measured_runs` gives them.
        placeholder: shown while nothing is chosen.
        has: whether a run has what the page needs.
    """
    _choose_at_first(page, known, has)
    with st.container(horizontal=True, vertical_alignment="bottom", key="pick_runs"):
        st.multiselect(
            "Runs",
            list(known),
            key=CHOSEN,
            format_func=lambda run: label(known[run]),
            max_selections=MOST_COMPARED,
            placeholder=placeholder,
            persist_state="session",
            on_change=_by_hand,
        )
        _offer_others(known)
    missing = st.session_state.pop("runs_missing", [])
    if missing:
        named = ", ".join(missing[:MOST_COMPARED])
        widgets.notice(Message("warning", f"The link names runs that are not in this store: {named}."))
    return [known[run] for run in st.session_state[CHOSEN]]


def _choose_at_first(page: str, known: Mapping[str, RunInfo], has: recorded_choice.Has) -> None:
    """Fill in the page's own choice, unless the visitor has made one, or a link that asks for something else."""
    usual = st.session_state.setdefault(_USUAL, {})
    if page not in usual:  # kept: a run that ends or is deleted does not change what is looked at
        usual[page] = [run.id for run in recorded_choice.at_first(list(known.values()), has)]
    by = st.session_state.get(_BY)
    # An address that the page wrote itself asks for its own choice, which other pages need not share.
    if by is None or (by == "link" and st.session_state.get(CHOSEN) == usual[page] and usual[page]):
        st.session_state[CHOSEN] = list(usual[page])
        st.session_state[_BY] = None
    # One that was deleted in another tab can no longer be chosen.
    st.session_state[CHOSEN] = [run for run in remembered(CHOSEN, []) if run in known]


def _offer_others(known: Mapping[str, RunInfo]) -> None:
    """A press to one's own runs, or back to the recorded ones."""
    shown = [known[run] for run in st.session_state[CHOSEN]]
    own = recorded_choice.own(list(known.values()))
    if own and (not shown or any(run.recorded for run in shown)):
        st.button("Show my runs", key="own_runs", icon=":material/person:", on_click=_show, args=([r.id for r in own],))
    elif shown and not any(run.recorded for run in shown) and any(run.recorded for run in known.values()):
        st.button("Show recorded runs", key="recorded_runs", icon=":material/inventory_2:", on_click=_show_usual)


def _show(runs: Sequence[str]) -> None:
    st.session_state[CHOSEN] = list(runs)
    _by_hand()


def _show_usual() -> None:
    """Back to what every page opens with."""
    st.session_state.get(_USUAL, {}).clear()
    st.session_state[_BY] = None


def _by_hand() -> None:
    st.session_state[_BY] = "hand"


def warn_of_differences(runs: Sequence[RunInfo]) -> None:
    """Warn of what differs besides the method."""
    found = differences(runs)
    if found:
        lines = "\n".join(f"{entry}" for entry in found)
        widgets.notice(
            Message(
                "warning",
                f"These runs differ in more than their method, so it alone does not explain the results.\n{lines}",
            )
        )


def follow(runs: Sequence[RunInfo]) -> None:
    """Redraw the page whenever a run in progress reaches a checkpoint or ends."""
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
