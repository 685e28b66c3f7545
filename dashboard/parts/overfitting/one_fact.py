"""One fact's search with and without MPES, step by step."""

from __future__ import annotations

from functools import partial

import pandas as pd
import streamlit as st

from dashboard import links
from dashboard.charts import overfitting as charts
from dashboard.elements import chart_card, widgets
from dashboard.parts.overfitting.pickers import pick_fact, texts_of
from dashboard.parts.overfitting.search_pairs import arms_of, fact_tiles, with_arms
from dashboard.reading import mpes_pairs, run_frames
from dashboard.reading.mpes_pairs import Pair
from dashboard.visitors.messages import Message
from encore_core.errors import InputError


@st.fragment
def card(pair: Pair) -> None:
    """The card of one fact, and the address of the view; choosing another fact redraws nothing else."""
    place = None
    with st.container(border=True, key="card_overfitting_one"):
        try:
            place = _one_fact(pair)
        except InputError as error:
            widgets.problem(error)
    view = {"run": [run.id for run in pair.runs], "fact": "" if place is None else str(place)}
    links.write("overfitting", view)


@st.cache_resource(show_spinner=False, max_entries=20)
def _searches(key: tuple[object, ...], _pair: Pair) -> tuple[pd.DataFrame, dict[int, str], int]:
    """The steps of all facts for which every run kept them.

    Returns:
        the steps with their arms, shared between visitors (do not change it); fact → its last probabilities; the fact
        whose last probabilities are nearest to their medians, -1 if there is none.
    """
    kept = with_arms(mpes_pairs.common_facts(run_frames.read("trajectories", _pair.runs), _pair), arms_of(_pair))
    if kept.empty:
        return kept, {}, -1
    last = kept.loc[kept.groupby(["fact", "arm"], sort=False)["step"].idxmax()]
    ends: dict[int, list[str]] = {int(fact): [] for fact in kept["fact"].unique()}
    for row in last.itertuples():
        ends[int(row.fact)].append(f"{row.probability:.2f}")
    of_arms = last.pivot(index="fact", columns="arm", values="probability")
    typical = int((of_arms - of_arms.median()).abs().sum(axis=1).idxmin())
    return kept, {fact: " and ".join(values) for fact, values in ends.items()}, typical


def _one_fact(pair: Pair) -> int | None:
    """One fact's search with and without MPES. Returns the fact that is shown."""
    arms = arms_of(pair)
    key = [(str(run_frames.store_of(run).folder), *run_frames.version(run)) for run in pair.runs]
    kept, ended, typical = _searches(tuple(key), pair)
    if kept.empty:
        widgets.notice(
            Message(
                "info",
                "These runs kept no optimisation step by step. “Trajectories” on the Run page says for how many facts "
                "a run keeps it; below, you can make one for any fact.",
            )
        )
        return None
    facts = texts_of(pair.runs[0])
    place = pick_fact(ended, facts, typical)
    if place < len(facts):
        widgets.sentence(facts[place])
    trajectory = kept[kept["fact"] == place]
    ends = run_frames.read("targets", pair.runs)
    ends = with_arms(ends[ends["fact"] == place], arms)
    fact_tiles(trajectory, dict(zip(ends["arm"], ends["stopped"], strict=True)))
    chart_card.show(
        partial(charts.steps, trajectory, list(arms.values())),
        key="overfitting steps",
        heading="The search for one fact's target, step by step",
        aside="stars: the stopping points",
        alt="Probability of the new answer, loss and its terms by step with and without MPES; where they end is said "
        "above the chart.",
        frame=trajectory,
        commands=chart_card.commands_of(pair.runs),
        revision=f"{pair.key} {place}",
    )
    st.caption(
        "A step moves the hidden state at the subject's last token. Loss = −log p of the answer (mean of its tokens "
        "and of the contexts that the step looks at: six, or in ENCORE-N two in turn until they say the answer) + KL "
        "term (what else is said about the subject) + weight decay. With MPES the search ends as soon as every token "
        "of the answer is the most probable one in every context that counts, plus a set number of steps; without, it "
        "goes on to make the answer nearly certain."
    )
    return place
