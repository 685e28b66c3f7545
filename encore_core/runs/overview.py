"""Runs at a glance: the last scores, and the curves of perplexity and growth, of many runs in three queries.

    overviews(store, store.runs())["encore-7k2q"].growth    # ((0, 1.0), (100, 1.02), …)

`series` reads every row of a run. A list of hundreds of runs needs only what is read here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from encore_core.runs.rows import RunInfo
from encore_core.runs.schema import later
from encore_core.runs.store import RunStore

Curve = tuple[tuple[int, float], ...]
"""Edits and a value, at every checkpoint where it is known."""

SUBSET = "sample"


@dataclass(frozen=True)
class Score:
    """A score at the last checkpoint that has any, of a sample of the facts edited so far.

    Attributes:
        value: from 0 to 100.
        n: facts; None in runs recorded without values per fact.
        low, high: the 95 % interval; None likewise.
    """

    value: float
    n: int | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Overview:
    """What a list shows of a run.

    Attributes:
        scored_at: edits of the last checkpoint with scores; None where there is none.
        scores, first_scores: metric → score there, and of the unedited model on facts to come.
        perplexity: its ratio to the unedited model's.
        growth: the largest ratio of an edited matrix's norm to its norm as loaded.
    """

    scored_at: int | None = None
    scores: dict[str, Score] = field(default_factory=dict)
    first_scores: dict[str, Score] = field(default_factory=dict)
    perplexity: Curve = ()
    growth: Curve = ()


def overviews(store: RunStore, runs: Sequence[RunInfo]) -> dict[str, Overview]:
    """The overview of each run, by its id.

    Args:
        store: where all of them are.
        runs: any.

    Raises:
        StoreError: when the store cannot be read.
    """
    if not runs:
        return {}
    numbers = [run.number for run in runs]
    last, first = _scores(store, numbers)
    perplexity, growth = _perplexity(store, numbers), _growth(store, runs)
    found = {}
    for run in runs:
        at, scores = last.get(run.number, (None, {}))
        found[run.id] = Overview(
            at, scores, first.get(run.number, {}), perplexity.get(run.number, ()), growth.get(run.number, ())
        )
    return found


def _scores(
    store: RunStore, numbers: Sequence[int]
) -> tuple[dict[int, tuple[int, dict[str, Score]]], dict[int, dict[str, Score]]]:
    """Scores of the sample at the last checkpoint that has any, and at 0 edits."""
    missing = later("scores", store.database.version)
    columns = ", ".join(f"NULL AS {name}" if name in missing else name for name in ("n", "low", "high"))
    sql = (
        f"SELECT s.run, s.edits, metric, value, {columns} FROM scores AS s JOIN "
        f"(SELECT run, max(edits) AS last FROM scores WHERE run IN ({_listed(numbers)}) AND subset = ? GROUP BY run) "
        "AS l ON s.run = l.run AND s.edits IN (0, l.last) WHERE subset = ? AND value IS NOT NULL ORDER BY s.edits"
    )
    _, rows = store.query(sql, (SUBSET, SUBSET))
    last: dict[int, tuple[int, dict[str, Score]]] = {}
    first: dict[int, dict[str, Score]] = {}
    for run, edits, metric, value, n, low, high in rows:
        score = Score(value, n, low, high)
        if edits == 0:
            first.setdefault(run, {})[metric] = score
        # Rows come in the order of edits, so a later checkpoint replaces an earlier one.
        if run not in last or last[run][0] != edits:
            last[run] = (edits, {})
        last[run][1][metric] = score
    return last, first


def _perplexity(store: RunStore, numbers: Sequence[int]) -> dict[int, Curve]:
    sql = (
        f"SELECT run, edits, value FROM measures WHERE run IN ({_listed(numbers)}) AND metric = 'perplexity' "
        "AND value IS NOT NULL ORDER BY run, edits"
    )
    curves = _curves(store.query(sql, ())[1])
    # A ratio needs the unedited model's.
    return {
        run: tuple((edits, value / curve[0][1]) for edits, value in curve)
        for run, curve in curves.items()
        if curve[0][0] == 0 and curve[0][1] > 0
    }


def _growth(store: RunStore, runs: Sequence[RunInfo]) -> dict[int, Curve]:
    by_layers: dict[tuple[int, ...], list[int]] = {}
    for run in runs:
        by_layers.setdefault(run.layers, []).append(run.number)
    found: dict[int, Curve] = {}
    for layers, numbers in by_layers.items():
        sql = (
            f"SELECT run, edits, max(ratio) FROM norms WHERE run IN ({_listed(numbers)}) AND layer IN "
            f"({_listed(layers)}) AND ratio IS NOT NULL GROUP BY run, edits ORDER BY run, edits"
        )
        found |= _curves(store.query(sql, ())[1])
    return found


def _curves(rows: Iterable[tuple[int, int, float]]) -> dict[int, Curve]:
    found: dict[int, list[tuple[int, float]]] = {}
    for run, edits, value in rows:
        found.setdefault(run, []).append((edits, value))
    return {run: tuple(curve) for run, curve in found.items()}


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(str(int(number)) for number in numbers)
