"""Look inside a run: the card of the Edit page, for a fact of the run and the weights that it last saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from dashboard.elements import widgets
from dashboard.parts.microscope import card, saved_edits
from dashboard.parts.microscope.looked import Looked
from dashboard.parts.microscope.saved_edits import SavedEdits
from dashboard.reading import run_frames
from dashboard.reading.run_words import label
from dashboard.visitors import browser_session
from dashboard.visitors.messages import Message
from dashboard.visitors.widget_state import KEEP, remembered
from encore_core.errors import InputError
from encore_core.runs import RunInfo

RUN, FACT, HELD = "microscope_run", "microscope_fact_of_run", "microscope_weights"


MOST_DIGITS = 9


def restore(asked: Mapping[str, Sequence[str]]) -> None:
    """Take what a link asks for: the run, its fact and the view. Whether the run has that fact is seen when drawn."""
    card.restore(asked)
    first = {name: values[0] for name, values in asked.items() if values}
    if "look" in first:
        st.session_state[RUN] = first["look"]
    else:
        st.session_state.pop(RUN, None)
    number = first.get("fact", "")
    is_number = number.isdecimal() and len(number) <= MOST_DIGITS and int(number) > 0
    st.session_state[FACT] = int(number) if is_number else 1


def view(runs: Sequence[RunInfo]) -> dict[str, str]:
    """The query of a link to the card as it is; what it opens with is left out.

    Args:
        runs: those on the page.
    """
    run, fact = st.session_state.get(RUN), st.session_state.get(FACT, 1)
    said = {"look": run} if runs and run not in (None, runs[0].id) else {}
    return said | ({"fact": str(fact)} if fact != 1 else {}) | card.view()


def show(runs: Sequence[RunInfo]) -> None:
    """Draw the card.

    Args:
        runs: those on the page, at least one.
    """
    with st.container(border=True, key="card_inside_run"):
        widgets.heading("Look inside a run", "as loaded, and with the weights that the run last saved")
        try:
            looked = _looked(_pick_run(runs))
        except InputError as error:
            widgets.problem(error)
            return
    if looked is not None:
        card.show(looked)


def _pick_run(runs: Sequence[RunInfo]) -> RunInfo:
    known = {run.id: run for run in runs}
    if remembered(RUN, runs[0].id) not in known:
        st.session_state[RUN] = runs[0].id
    if len(runs) > 1:
        st.segmented_control(
            "Run to look inside", list(known), key=RUN, required=True,
            format_func=lambda name: widgets.plain(label(known[name])), **KEEP,
        )  # fmt: skip
    return known[st.session_state[RUN]]


def _looked(run: RunInfo) -> Looked | None:
    """A fact of the run and its weights, once they are asked for."""
    store = run_frames.store_of(run)
    reason = saved_edits.why_not(run, store)
    if reason:
        widgets.notice(Message("info", reason))
        return None
    held = _weights(run)
    if held is None:
        ready = "visitor" in st.session_state
        if not st.button("Look inside" if ready else "Load the model and look inside", key="microscope_of_run"):
            st.caption("A run keeps the weights that it last saved, not those of earlier checkpoints.")
            return None
        place = st.empty()
        visitor = browser_session.visitor(
            lambda what, share: place.progress(min(1.0, max(0.0, share)), text=f"{what} …")
        )
        place.empty()
        held = saved_edits.read(run, store, visitor.lm)
        st.session_state[HELD] = (run.id, run.cursor, run.done, held)
        if not ready:
            st.rerun()  # from now on the frame shows its choice of models
    facts = store.facts(run.id)[: max(1, held.n_edits)]
    if remembered(FACT, 1) > len(facts):
        st.session_state[FACT] = len(facts)
    number = st.number_input(
        f"Fact of the run, 1 to {len(facts):,}", 1, len(facts), key=FACT, help="In the order of the edits.", **KEEP
    )
    fact = facts[int(number) - 1]
    widgets.sentence(fact)
    st.caption(f"Before: the model as loaded. After: with the {held.n_edits:,} edits that the run last saved.")
    layers = tuple(sorted(held.by_layer))
    return Looked(held.lm, fact.text, fact.target_new, fact.target_true, fact, held, layers)


def _weights(run: RunInfo) -> SavedEdits | None:
    """Those that were read before, if the run has saved no others since and the model is still the visitor's."""
    if "visitor" not in st.session_state or HELD not in st.session_state:
        return None
    run_id, cursor, done, held = st.session_state[HELD]
    same_run = (run_id, cursor, done) == (run.id, run.cursor, run.done)
    return held if same_run and held.lm is browser_session.current().lm else None
