"""Why stop early? How sure the model becomes of edited facts with and without MPES, and what that saves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd

from dashboard.charts.labels import minus
from dashboard.reading import paper_tables
from dashboard.reading.answers import published
from dashboard.reading.answers.answer import Answer, listed
from encore_core.measures import intervals
from encore_core.measures.intervals import Interval

LONG = 1.5
"""From this many times the steps a search is said to go on long after it could have stopped."""

FEWEST = 5
"""With fewer facts nothing is said of a difference."""


def answer(frame: pd.DataFrame, arms: Mapping[str, str], known: Sequence[float] = ()) -> Answer:
    """Why to stop early, from the facts that both runs edited.

    Args:
        frame: run, fact, probability, steps; facts that every run has.
        arms: "without" and "stopped" → the id of that run; a missing one was not run.
        known: probabilities of facts that the model knows by itself; none where that was not measured.
    """
    means = {arm: frame.loc[frame["run"] == run, "probability"].mean() for arm, run in arms.items()}
    if len(arms) < 2:
        [(arm, mean)] = means.items()
        how = "with" if arm == "stopped" else "without"
        n = int((frame["run"] == arms[arm]).sum())
        return Answer(
            "one run alone",
            f"One run alone cannot answer that: {how} MPES the answers' mean p is {mean:.2f} (n {n}), and there is "
            "no run to compare it with.",
        )
    tables = {arm: frame[frame["run"] == run].set_index("fact") for arm, run in arms.items()}
    both = tables["without"].index.intersection(tables["stopped"].index)
    without, stopped = (tables[arm].loc[both] for arm in ("without", "stopped"))
    gap = intervals.of_difference(without["probability"].tolist(), stopped["probability"].tolist())
    if gap is None or gap.n < FEWEST or gap.low is None:
        return Answer("too few facts", f"Too few facts to tell: {len(both)} in both runs.")
    ends = minus(f"The difference is {gap.value:+.2f} (95 %: {gap.low:+.2f} to {gap.high:+.2f}, n {gap.n})")
    figures = (
        f"mean p {without['probability'].mean():.2f} without most-probable early stopping (MPES), "
        f"{stopped['probability'].mean():.2f} with it"
    )
    steps = f"a fact takes {without['steps'].mean():.1f} steps without MPES and {stopped['steps'].mean():.1f} with it"
    figures = f"{figures}. {ends}; {steps}."
    paper = _paper()
    longer = intervals.of_difference(without["steps"].tolist(), stopped["steps"].tolist())
    saves_steps = longer.value > 0 and longer.excludes_zero
    if not gap.excludes_zero:
        but = ", but it saves steps" * saves_steps
        return Answer(
            "no difference",
            f"Here it makes no significant difference to how sure the model becomes{but}: {figures}",
            paper,
        )
    if gap.value < 0:
        return Answer("the other way", f"Not for this reason here: {figures}", paper)
    if not saves_steps:
        why = "Because edited facts become surer than they need to be, though not by more steps"
    elif without["steps"].mean() < LONG * stopped["steps"].mean():
        why = "Because the search goes on after the answer is the most probable one, and overfits the fact"
    else:
        why = "Because the search goes on long after the answer is the most probable one, and overfits the fact"
    arms = without["probability"].tolist(), stopped["probability"].tolist()
    return Answer("overfits", f"{why}: {figures}{_beside_known(*arms, known)}", paper)


def _beside_known(without: Sequence[float], stopped: Sequence[float], known: Sequence[float]) -> str:
    """Whether the model is surer of edited facts than of those that it knows, beyond chance."""
    usual = intervals.of_mean(known)
    if usual is None or usual.low is None:
        return ""
    surer = [
        name for name, arm in (("with", stopped), ("without", without)) if _is_above(intervals.of_mean(arm), usual)
    ]
    told = f" Facts that the model knows by itself have {usual.value:.2f} (n {usual.n})"
    if not surer:
        return f"{told}; that it is surer of edited ones is not significant, with or without MPES."
    not_with = "; with it, not significantly" * (surer == ["without"])
    return f"{told}, so it is surer of edited ones {listed(surer)} MPES{not_with}."


def _is_above(one: Interval, other: Interval) -> bool:
    """Whether a mean is above another, independent one: the interval of the difference (Zou and Donner 2008)."""
    if one.low is None:
        return False
    return one.value - other.value > math.hypot(one.value - one.low, other.high - other.value)


def _paper() -> str:
    """The paper's figures for MEMIT on Llama-3-8B."""
    table = paper_tables.filtered(1, ["Llama3-8B"], ["MEMIT"])
    found = dict(zip(table["quantity"], table["value"], strict=True))
    names = ("edited_fact_prob_without_mpes", "edited_fact_prob_with_mpes", "original_fact_prob")
    return published.stopping(*(float(found[name]) for name in names))
