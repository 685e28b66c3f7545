"""Which run is ahead in a score, and whether that is more than chance. Knows no streamlit.

A run is called best only where it is ahead of every other run beyond the 95 % interval of the difference on the same
facts (paired bootstrap).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dashboard.charts.labels import minus
from dashboard.reading.run_words import TASKS_UNSURE, Measure
from dashboard.reading.scores_at_checkpoint import Score
from encore_core.measures.intervals import Interval
from encore_core.runs.fact_values import NO_INTERVAL

FEWEST = 5
"""With fewer facts, or tests, nothing is said of a difference."""

Differences = Mapping[tuple[str, str, str], Interval]
"""(metric, run, other run) → how much higher the run scores on the same facts."""


@dataclass(frozen=True)
class Verdict:
    """What can be said about a measure of several runs.

    Attributes:
        best: the place of the run that is best, if one is.
        mark: the word beside its figure; empty for none.
        words: why, in words.
    """

    best: int | None = None
    mark: str = ""
    words: str = ""


def of_other_edits(found: Sequence[Score | None], at: int) -> Verdict | None:
    """The verdict on figures that cannot be compared, because they are not after the same edits; None where they can.

    Args:
        found: of each run, at its last checkpoint up to `at`; None where it has none.
        at: edits.
    """
    edits = {one.edits for one in found if one is not None}
    if len(edits) > 1:
        return Verdict(words="undecided: measured after different numbers of edits")
    return Verdict() if edits == {0} and at else None


def of_scores(
    measure: Measure, ids: Sequence[str], names: Sequence[str], of_runs: Sequence[Score | None], found: Differences
) -> Verdict:
    """The verdict on a score of facts, of which more is better.

    Args:
        measure: the score.
        ids, names: of the runs.
        of_runs: the score of each run, after the same edits; None where it has none.
        found: differences between the runs.
    """
    values = [None if one is None else one.value for one in of_runs]
    places = sorted((place for place, one in enumerate(values) if one is not None), key=lambda at: -values[at])
    if len(places) < 2:
        return Verdict()
    first, *others = places
    gaps = [found.get((measure.name, ids[first], ids[other])) for other in others]
    if any(gap is None for gap in gaps):
        without = any(of_runs[place].low is None for place in places)
        return Verdict(words="undecided: " + (NO_INTERVAL.partition(": ")[2] if without else "no fact in common"))
    # The lead that is least certain decides, and is told.
    second, gap = min(
        zip(others, gaps, strict=True),
        key=lambda pair: -math.inf if pair[1].low is None or pair[1].n < FEWEST else pair[1].low,
    )
    if all(one.value == 0 for one in gaps):
        return Verdict(words="no difference")
    digits = max(1, measure.digits)
    if gap.low is None or gap.n < FEWEST:
        return Verdict(words=f"n = {gap.n} is too small to tell")
    figures = minus(f"{gap.value:+.{digits}f} ({gap.low:+.{digits}f} to {gap.high:+.{digits}f})")
    ahead = f"{names[first]} − {names[second]}: {figures}"
    if all(one.n >= FEWEST and one.low is not None and one.low > 0 for one in gaps):
        return Verdict(first, "best", ahead)
    return Verdict(words=f"{ahead}: not significant")


def of_means(measure: Measure, names: Sequence[str], found: Sequence[Score | None]) -> Verdict:
    """The verdict on a score with intervals that are independent of each other, of which more is better.

    Args:
        measure: the score.
        names: of the runs.
        found: of each run; None where it has none.
    """
    places = sorted((place for place, one in enumerate(found) if one is not None), key=lambda at: -found[at].value)
    if len(places) < 2:
        return Verdict()
    first, *others = places
    if any(found[place].low is None or found[place].high is None for place in places):
        return Verdict(words=f"undecided: {TASKS_UNSURE.partition(': ')[2]}")
    best = found[first]
    gaps = {place: best.value - found[place].value for place in others}
    # The interval of a difference, from those of the two (Zou and Donner 2008).
    lows = {place: gap - math.hypot(best.value - best.low, found[place].high - found[place].value)
            for place, gap in gaps.items()}  # fmt: skip
    second = min(others, key=lows.__getitem__)
    digits = max(1, measure.digits)
    figures = minus(f"{gaps[second]:+.{digits}f} (at least {lows[second]:+.{digits}f})")
    ahead = f"{names[first]} − {names[second]}: {figures}"
    return Verdict(first, "best", ahead) if min(lows.values()) > 0 else Verdict(words=f"{ahead}: not significant")


def of_figures(measure: Measure, values: Sequence[float | None]) -> Verdict:
    """The verdict on what is not scored on facts and has no interval: which figure is the lowest, for example.

    Args:
        measure: what was measured.
        values: of each run, as shown; None where it has none.
    """
    there = {place: value for place, value in enumerate(values) if value is not None}
    if len(set(there.values())) < 2 or not measure.best:
        return Verdict()
    rank, word = {
        "one": (lambda value: round(abs(value - 1), measure.digits), "nearest to 1"),
        "low": (lambda value: value, "lowest"),
    }.get(measure.best, (lambda value: -value, "highest"))
    place, *others = sorted(there, key=lambda at: rank(there[at]))
    if any(rank(there[other]) == rank(there[place]) for other in others):
        return Verdict(words="no single one is ahead")
    return Verdict(place, word, "one figure per run, no interval")
