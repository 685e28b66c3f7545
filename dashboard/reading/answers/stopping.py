"""Why stop early? How sure the model becomes of edited facts with and without MPES, and what that saves."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from dashboard.reading import paper_tables
from dashboard.reading.answers import published
from dashboard.reading.answers.answer import Answer
from encore_core.measures import intervals

FEWEST = 5
"""With fewer facts nothing is said of a difference."""


def answer(frame: pd.DataFrame, arms: Mapping[str, str], known: float | None) -> Answer:
    """Why to stop early, from the facts that both runs edited.

    Args:
        frame: run, fact, probability, steps; facts that every run has.
        arms: "without" and "stopped" → the id of that run; a missing one was not run.
        known: mean probability of facts that the model knows by itself; None where that was not measured.
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
    ends = f"difference {gap.value:+.2f}, 95 %: {gap.low:+.2f} to {gap.high:+.2f}, n {gap.n}".replace("-", "−")
    figures = (
        f"mean p {without['probability'].mean():.2f} without most-probable early stopping (MPES), "
        f"{stopped['probability'].mean():.2f} with it"
    )
    steps = f"{without['steps'].mean():.1f} steps per fact against {stopped['steps'].mean():.1f}"
    paper = _paper()
    if not gap.excludes_zero:
        return Answer(
            "no difference",
            f"Here it makes no significant difference: {figures} ({ends}); {steps}.",
            paper,
        )
    if gap.value < 0:
        return Answer("the other way", f"Not for this reason here: {figures} ({ends}); {steps}.", paper)
    text = f"Because the search goes on long after the answer is the most probable one: {figures} ({ends}); {steps}."
    means = without["probability"].mean(), stopped["probability"].mean()
    return Answer("overfits", f"{text}{_beside_known(*means, known)}", paper)


def _beside_known(without: float, stopped: float, known: float | None) -> str:
    if known is None:
        return ""
    if without > known:
        who = "with and without MPES" if stopped > known else "without MPES, but not with it"
        return f" Facts that the model knows by itself have {known:.2f}, so it is surer of edited ones {who}."
    return f" Facts that the model knows by itself have {known:.2f}, so even without MPES edited ones are no surer."


def _paper() -> str:
    """The paper's figures for MEMIT on Llama-3-8B."""
    table = paper_tables.filtered(1, ["Llama3-8B"], ["MEMIT"])
    found = dict(zip(table["quantity"], table["value"], strict=True))
    names = ("edited_fact_prob_without_mpes", "edited_fact_prob_with_mpes", "original_fact_prob")
    return published.stopping(*(float(found[name]) for name in names))
