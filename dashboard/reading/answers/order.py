"""Does growth order the damage? Runs of as many edits, by how far a matrix has grown and by what perplexity rose to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from dashboard.charts.labels import minus
from dashboard.charts.runs import RATIO
from dashboard.reading.answers.answer import Z, times
from dashboard.reading.run_words import belongs
from encore_core.runs import RunInfo

FEWEST = 4
"""Runs; with fewer nothing is said of an order."""

STRONG = 0.8
"""Rank correlation from which on growth is said to order the damage, if its 95 % interval excludes 0."""


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
    low, high = _ends(rank, len(found))
    told_rank = minus(f"{rank:.2f}" + (f" (95 %: {low:.2f} to {high:.2f})" if low < high else ""))
    most_grown, most_hurt = (max(found, key=lambda one: getattr(one, name)) for name in ("growth", "perplexity"))
    few = f": {len(found)} methods are too few to tell an order" if low <= 0 <= high else ""
    rank_told = f"The rank correlation of growth and perplexity over {len(found)} methods is {told_rank}{few}."
    when = f"after {edits:,} edits of {model}, the norm grows most with {most_grown.method} ({times(most_grown.growth)}"
    if most_grown is most_hurt:
        first = "The more a model grows, the more it loses" if rank >= STRONG and not few else \
            "Growth alone does not tell how much a model loses"  # fmt: skip
        return f"{first}: {when}), and so does perplexity ({times(most_grown.perplexity)}). {rank_told}"
    alone = "Models that grow more tend to lose more, but growth" if low > 0 else "Growth"
    return (
        f"{alone} alone does not tell which model loses most: {when}; perplexity {times(most_grown.perplexity)}), but "
        f"perplexity rises most with {most_hurt.method} ({times(most_hurt.perplexity)}; norm "
        f"{times(most_hurt.growth)}). {rank_told}"
    )


def _ends(rank: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a rank correlation of n pairs (Bonett and Wright 2000, doi:10.1007/BF02294183).

    Of a perfect one, of which nothing is known but its value, that value.
    """
    if abs(rank) >= 1:
        return rank, rank
    half = Z * math.sqrt((1 + rank**2 / 2) / (n - 3))
    return math.tanh(math.atanh(rank) - half), math.tanh(math.atanh(rank) + half)
