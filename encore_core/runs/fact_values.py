"""Scores fact by fact, as the store keeps them: from them come intervals, and differences between runs.

Metrics are those of `scores.Scores`, and for generated answers "generated_", the part of the fact and the way of
comparing, such as "generated_edit_contained". Values are from 0 to 1 (magnitude from -1 to 1); scores are × 100, except
the magnitude. A fact without such prompts has no value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from encore_core.measures import intervals
from encore_core.measures.generated_scores import METRICS, PARTS, GeneratedScores
from encore_core.measures.intervals import Interval
from encore_core.measures.scores import GENERATION_PROTOCOL, OF_FACT, PROTOCOL, FactScores

WAYS = {
    "exact": "right if the text is the answer",
    "contained": "right if the text contains the answer",
    "judged": "right if the judge says so",
}
"""Way of comparing a text with an answer → what it means."""

NO_INTERVAL = "no interval: recorded without values per fact"
"""Said of the scores of runs of earlier versions."""

Values = Mapping[str, float]
"""Metric → value, of one fact."""

OVERALL = "overall_score"
OVERALL_OF = ("edit_score", "paraphrase_score", "neighborhood_score")
FORCED = (*OVERALL_OF, OVERALL, *(name for name in OF_FACT if name not in OVERALL_OF))
GENERATED = tuple(f"generated_{part}_{metric}" for part in PARTS for metric in METRICS)
"""The metrics of generated answers."""


def forced(scores: FactScores) -> dict[str, float]:
    """The values of one fact, teacher-forced."""
    found = {metric: getattr(scores, name) for metric, name in OF_FACT.items()}
    return {metric: value for metric, value in found.items() if value is not None}


def generated(scores: GeneratedScores) -> list[dict[str, float]]:
    """The values of each fact from its generated answers."""
    columns = {f"generated_{part}_{metric}": scores.of_facts(part, metric) for part in PARTS for metric in METRICS}
    return [
        {metric: column[place] for metric, column in columns.items() if column[place] is not None}
        for place in range(len(scores.facts))
    ]


def interval(metric: str, values: Sequence[Values]) -> Interval | None:
    """A score with its 95 % interval over facts; None where no fact has such a value.

    Args:
        metric: its name.
        values: of each fact.
    """
    if metric == OVERALL:
        found = intervals.of_harmonic_mean(_columns(values))
    else:
        found = intervals.of_mean([of_fact.get(metric) for of_fact in values])
    return _scaled(metric, found)


def difference(metric: str, values: Sequence[Values], others: Sequence[Values]) -> Interval | None:
    """How much higher a score is than another on the same facts, with its 95 % interval (paired bootstrap).

    Args:
        metric: its name.
        values, others: of each fact, in the same order.
    """
    if metric == OVERALL:
        found = intervals.of_harmonic_mean_difference(_columns(values), _columns(others)) if values else None
    else:
        columns = ([of_fact.get(metric) for of_fact in each] for each in (values, others))
        found = intervals.of_difference(*columns)
    return _scaled(metric, found)


def summary(subset: str, metrics: Sequence[str], values: Sequence[Values]) -> list[tuple]:
    """Rows of the table of scores: (subset, metric, value, n, low, high); value None where no fact has one."""
    found = [(metric, interval(metric, values)) for metric in metrics]
    return [
        (subset, metric, *((one.value, one.n, one.low, one.high) if one else (None, 0, None, None)))
        for metric, one in found
    ]


def protocol(metric: str, of_run: Mapping[str, str]) -> str:
    """How a score came about, in words.

    Args:
        metric: its name.
        of_run: `RunInfo.protocols`; empty for runs of earlier versions, all of which were scored in the same way.
    """
    if metric == "generation_efficacy":
        return GENERATION_PROTOCOL
    if not metric.startswith("generated_"):
        return of_run.get("teacher-forced", PROTOCOL)
    return f"{of_run.get('generated', 'generated')}; {WAYS[metric.rpartition('_')[2]]}"


def _columns(values: Sequence[Values]) -> list[list[float | None]]:
    return [[of_fact.get(part) for of_fact in values] for part in OVERALL_OF]


def _scaled(metric: str, found: Interval | None) -> Interval | None:
    return found if found is None or metric == "magnitude" else found.times(100.0)
