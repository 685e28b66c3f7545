"""Why stop early? What Most-Probable Early Stopping (MPES) does to the optimisation of one fact, and of many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard import links, page_list
from dashboard.elements import run_picker, widgets
from dashboard.parts.overfitting import many_facts, one_fact, own_search
from dashboard.parts.overfitting.pickers import USUAL_FACT, pick_pair
from dashboard.reading import mpes_pairs
from dashboard.reading.mpes_pairs import Pair
from dashboard.talk import presenter
from dashboard.visitors.messages import Message
from encore_core.errors import InputError
from encore_core.runs import RunInfo


def restore(asked: Mapping[str, Sequence[str]], pairs: Mapping[str, Pair], known: Mapping[str, RunInfo]) -> None:
    """Choose the pair and the fact that a link asks for. Missing runs are named."""
    wanted = list(dict.fromkeys(asked.get("run", ())))
    missing = [run for run in wanted if run not in known]
    if missing:
        named = ", ".join(missing[:4])
        st.session_state["overfitting_missing"] = f"The link names runs that are not in this store: {named}."
    # The pair with most of them; on a tie the first.
    found = max(pairs, key=lambda key: sum(run.id in wanted for run in pairs[key].runs), default=None)
    if found is not None and any(run.id in wanted for run in pairs[found].runs):
        st.session_state["overfitting_pair"] = found
    fact = next(iter(asked.get("fact", ())), "")
    if fact.isdecimal() and len(fact) < 9:
        st.session_state["overfitting_fact"] = int(fact)
        st.session_state.pop(USUAL_FACT, None)


def main() -> None:
    st.title(page_list.question("overfitting"), anchor=False)
    try:
        known = run_picker.measured_runs()
    except InputError as error:
        widgets.problem(error)
        return
    recorded = [run for run in known.values() if run.recorded]
    own = [run for run in known.values() if not run.recorded]
    # Recorded pairs come first, then the visitor's own, then what is made of both.
    pairs = {pair.key: pair for runs in (recorded, own, [*own, *recorded]) for pair in mpes_pairs.pairs_of(runs)}
    asked = links.opened("overfitting")
    if asked is not None:
        restore(asked, pairs, known)
    missing = st.session_state.pop("overfitting_missing", None)
    if missing:
        widgets.notice(Message("warning", missing))
    if pairs:
        answer = st.container(key="answer")
        pair = pick_pair(pairs)
        try:
            of_pair(pair, answer)
        except InputError as error:
            widgets.problem(error)
            links.write("overfitting", {})
    else:
        links.write("overfitting", {})
        widgets.notice(
            Message(
                "info",
                "No run has edited anything yet. Start MEMIT and MEMIT+MPES on the Run page, on the same facts, and "
                "they are shown side by side here. Below, you can try a single fact at once.",
            )
        )
    own_search.card()
    if pairs:
        run_picker.follow(pair.runs)


def of_pair(pair: Pair, answer: DeltaGenerator) -> None:
    """Everything about a pair of runs, and the answer above it."""
    question = "How sure will the model be of an edited fact, compared with one that it already knows?"
    if presenter.covered("overfitting", pair.key, question, ["less sure", "as sure", "surer"]):
        return
    with answer:
        many_facts.answer(pair)
    if len(pair.runs) == 1:
        [run] = pair.runs
        counterpart = "without" if mpes_pairs.stops_early(run) else "with"
        widgets.notice(
            Message(
                "info",
                f"There is no run {counterpart} MPES on the same facts, batches and seed with the same settings, so "
                "this one is shown alone.",
            )
        )
    elif not pair.clean:
        widgets.notice(
            Message(
                "info",
                "ENCORE is MEMIT with MPES and a norm constraint. The search for targets differs by MPES alone; after "
                "the first batch the matrices it works on differ, too.",
            )
        )
    run_picker.warn_of_differences(pair.runs)
    one_fact.card(pair)
    many_facts.cards(pair)


main()
