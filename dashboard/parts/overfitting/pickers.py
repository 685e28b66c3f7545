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

USUAL_FACT = "overfitting_usual_fact"
"""In the session state: the fact that the page chose by itself."""


def pick_pair(pairs: Mapping[str, Pair]) -> Pair:
    """Pick the pair; at first a recorded one, and one whose facts have their texts here, if there is one."""
    if remembered("overfitting_pair", _usual(pairs)) not in pairs:  # deleted in another tab
        st.session_state["overfitting_pair"] = _usual(pairs)
    with st.container(horizontal=True, vertical_alignment="bottom", key="pick_runs"):
        st.selectbox(
            "Runs",
            list(pairs),
            key="overfitting_pair",
            format_func=lambda key: _pair_label(pairs[key]),
            persist_state="session",
        )
        _offer_others(pairs)
    return pairs[st.session_state["overfitting_pair"]]


def _offer_others(pairs: Mapping[str, Pair]) -> None:
    """A press to one's own newest pair, or back to the recorded one."""
    own = [key for key, pair in pairs.items() if not any(run.recorded for run in pair.runs)]
    is_own = st.session_state["overfitting_pair"] in own
    if own and not is_own:
        st.button("Show my runs", key="own_runs", icon=":material/person:", on_click=_show, args=(own[0],))
    elif is_own and len(own) < len(pairs):
        st.button("Show recorded runs", key="recorded_runs", icon=":material/inventory_2:", on_click=_show,
                  args=(_usual(pairs),))  # fmt: skip


def _usual(pairs: Mapping[str, Pair]) -> str:
    """The pair that the page opens with: recorded before one's own, two runs before one, facts with texts first."""

    def rank(key: str) -> tuple[bool, bool, bool]:
        runs = pairs[key].runs
        return all(run.recorded for run in runs), len(runs) == 2, _has_texts(runs[0])

    return max(pairs, key=rank)


def _show(key: str) -> None:
    st.session_state["overfitting_pair"] = key


def _pair_label(pair: Pair) -> str:
    """A pair's name for the list."""
    recorded = " · recorded" if all(run.recorded for run in pair.runs) else ""
    edits = " and ".join(f"{n:,}" for n in sorted({run.done for run in pair.runs}))
    texts = "" if _has_texts(pair.runs[0]) else " · facts by number only"
    names = " against ".join(run.method for run in pair.runs)
    alone = "" if len(pair.runs) == 2 else " alone"
    return f"{names}{alone} · {edits} edits of {short_model(pair.runs[0].model)}{recorded}{texts} · {pair.key}"


def _has_texts(run: RunInfo) -> bool:
    return run_frames.store_of(run).has_facts(run)


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


def pick_fact(ends: Mapping[int, str], facts: Sequence[Fact], usual: int) -> int:
    """Pick a fact, by its place in the run's facts.

    Args:
        ends: place → probabilities at the last steps, for the facts whose every step was kept.
        facts: texts by place; empty where they are not here.
        usual: the place that is shown until the visitor chooses one; other runs have another.
    """
    places = list(ends)
    if remembered("overfitting_fact", usual) == st.session_state.get(USUAL_FACT):
        st.session_state["overfitting_fact"] = usual
    st.session_state[USUAL_FACT] = usual
    if st.session_state["overfitting_fact"] not in places:
        widgets.notice(
            Message("info", f"The steps of fact {st.session_state['overfitting_fact']} were not kept in these runs.")
        )
        st.session_state["overfitting_fact"] = usual

    def named(place: int) -> str:
        if place < len(facts):
            return f"{facts[place].text} … {facts[place].target_new}{fact_words.marked(facts[place])} · fact {place}"
        return f"fact {place} · ends at p = {ends[place]}"

    st.selectbox(
        f"Fact · {len(places)} with every step kept, type to search",
        places,
        key="overfitting_fact",
        format_func=named,
        persist_state="session",
    )
    return st.session_state["overfitting_fact"]
