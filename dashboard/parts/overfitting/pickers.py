"""The choice of a pair of runs, and of one of its facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from dashboard.elements import widgets
from dashboard.reading import fact_words, run_frames
from dashboard.reading.mpes_pairs import Pair
from dashboard.reading.run_words import short_model
from dashboard.visitors.messages import Message
from dashboard.visitors.widget_state import remembered
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.runs import RunInfo


def pick_pair(pairs: Mapping[str, Pair]) -> Pair:
    """Pick the pair; at first one whose facts have their texts here, if there is one."""
    first = next((key for key, pair in pairs.items() if len(pair.runs) == 2 and _has_texts(pair.runs[0])), None)
    if remembered("overfitting_pair", first or next(iter(pairs))) not in pairs:  # deleted in another tab
        st.session_state["overfitting_pair"] = first or next(iter(pairs))
    st.selectbox(
        "Runs",
        list(pairs),
        key="overfitting_pair",
        format_func=lambda key: _pair_label(pairs[key]),
        persist_state="session",
    )
    return pairs[st.session_state["overfitting_pair"]]


def _pair_label(pair: Pair) -> str:
    """A pair's name for the list."""
    recorded = " · recorded" if all(run.recorded for run in pair.runs) else ""
    edits = " and ".join(f"{n:,}" for n in sorted({run.done for run in pair.runs}))
    texts = " · facts as texts" if _has_texts(pair.runs[0]) else ""
    names = " against ".join(run.method for run in pair.runs)
    alone = "" if len(pair.runs) == 2 else " alone"
    return f"{names}{alone} · {edits} edits of {short_model(pair.runs[0].model)}{recorded}{texts} · {pair.key}"


def _has_texts(run: RunInfo) -> bool:
    """Whether the texts of a run's facts are here: recorded runs on files that we may not pass on lack them."""
    return (run_frames.store_of(run).folder_of(run.id) / "facts.jsonl").is_file()


@st.cache_resource(show_spinner=False, max_entries=8)
def _facts(folder: str, recorded: bool, run_id: str) -> tuple[Fact, ...]:
    from encore_core.runs import RunStore

    return tuple(RunStore(folder, read_only=recorded).facts(run_id))


def texts_of(run: RunInfo) -> tuple[Fact, ...]:
    """The facts of a run; empty where their texts are not here."""
    try:
        return _facts(str(run_frames.store_of(run).folder), run.recorded, run.id)
    except InputError:
        return ()


def pick_fact(ends: Mapping[int, str], facts: Sequence[Fact]) -> int:
    """Pick a fact, by its place in the run's facts.

    Args:
        ends: place → probabilities at the last steps, for the facts whose every step was kept.
        facts: texts by place; empty where they are not here.
    """
    places = list(ends)
    if remembered("overfitting_fact", places[0]) not in places:
        widgets.notice(
            Message("info", f"The steps of fact {st.session_state['overfitting_fact']} were not kept in these runs.")
        )
        st.session_state["overfitting_fact"] = places[0]

    def named(place: int) -> str:
        if place < len(facts):
            return f"fact {place} · {facts[place].text} … {facts[place].target_new}{fact_words.marked(facts[place])}"
        return f"fact {place} · ends at p = {ends[place]}"

    st.selectbox(
        f"Fact · {len(places)} with every step kept, type to search",
        places,
        key="overfitting_fact",
        format_func=named,
        persist_state="session",
    )
    return st.session_state["overfitting_fact"]
