"""Does growth order the damage? Runs of as many edits, by how far a matrix has grown and by what perplexity rose to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from dashboard.charts.labels import minus
from dashboard.charts.runs import RATIO
from dashboard.reading.answers.answer import times
from dashboard.reading.run_words import belongs
from encore_core.runs import RunInfo

FEWEST = 4
"""Runs; with fewer nothing is said of an order."""

STRONG = 0.8
"""Rank correlation from which on growth is said to order the damage."""


@dataclass(frozen=True)
class Fate:
    """What became of a run's model.

    Attributes:
        method: of the run.
        growth: largest norm of an edited matrix, as a ratio to that as loaded.
        perplexity: as a ratio to the unedited model's.
    """

    method: str
    growth: float
    perplexity: float


def fates(runs: Sequence[RunInfo], health: pd.DataFrame) -> tuple[int, str, list[Fate]]:
    """The largest group of runs that belong together and went as far, a method once.

    Args:
        runs: any.
        health: of them, as `run_frames.health` gives it.

    Returns:
        edits, model, and a fate per method.
    """
    last = {
        (row.run, row.metric): float(row.value)
        for row in health.sort_values("edits").itertuples()
        if row.edits and row.value == row.value
    }
    groups: dict[tuple[object, ...], dict[str, Fate]] = {}
    for run in runs:
        growth, ratio = last.get((run.id, "norm_ratio")), last.get((run.id, RATIO))
        if growth is not None and ratio is not None:
            group = groups.setdefault((run.done, *belongs(run)), {})
            group.setdefault(run.method, Fate(run.method, growth, ratio))
    if not groups:
        return 0, "", []
    (edits, model, *_), found = max(groups.items(), key=lambda item: (len(item[1]), item[0][0]))
    return edits, model, list(found.values())


def answer(edits: int, model: str, found: Sequence[Fate]) -> str:
    """Whether growth orders the damage, in a sentence or two; "" for too few runs, or runs that are all alike.

    Args:
        edits, model, found: of `fates`.
    """
    if len(found) < FEWEST:
        return ""
    frame = pd.DataFrame([vars(one) for one in found])
    rank = float(frame["growth"].rank().corr(frame["perplexity"].rank()))
    if math.isnan(rank):  # all alike
        return ""
    told_rank = minus(f"{rank:.2f}")
    most_grown, most_hurt = (max(found, key=lambda one: getattr(one, name)) for name in ("growth", "perplexity"))
    first = "The more a model grows, the more it loses" if rank >= STRONG else \
        "Growth alone does not tell which model loses most"  # fmt: skip
    told = (
        f"{first}: over {len(found)} methods after {edits:,} edits of {model}, growth and perplexity have a rank "
        f"correlation of {told_rank}. The norm grows most with {most_grown.method} ({times(most_grown.growth)}"
    )
    if most_grown is most_hurt:
        return f"{told}), and so does perplexity ({times(most_grown.perplexity)})."
    return (
        f"{told}; perplexity {times(most_grown.perplexity)}), and perplexity rises most with {most_hurt.method} "
        f"({times(most_hurt.perplexity)}; norm {times(most_hurt.growth)})."
    )
