"""Scores of downstream tasks, and perplexity, before any edit and at the last checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from dashboard.charts.labels import minus
from dashboard.charts.runs import RATIO
from dashboard.parts.runs_compared.view import View
from dashboard.reading import run_frames
from dashboard.reading.scores_at_checkpoint import AtCheckpoints
from dashboard.reading.verdicts import FEWEST
from encore_core.measures.intervals import Interval


def rows_of(view: View, frame: pd.DataFrame, raw: pd.DataFrame, titles: Mapping[str, str]) -> list[list]:
    """Rows of the table: what it is, and a cell per run with the value before and after and the difference.

    The differences of tasks have their 95 % interval on the same tests, where the answers were recorded.
    """
    values = AtCheckpoints(frame)
    gaps = run_frames.task_changes(view.runs, view.metric)
    found = {(metric, run.id): _ends(values, run.id, metric) for metric in titles for run in view.runs}
    # The checkpoint that nearly all rows share is shown once; tasks are asked less often than perplexity is measured.
    checkpoints = {run.id: [found[metric, run.id][2] for metric in titles] for run in view.runs}
    last = {run: next((at for at in of_run if at), 0) for run, of_run in checkpoints.items()}
    rows: list[list] = [["Edits", *(f"0 → {last[run.id]:,}" if last[run.id] else "–" for run in view.runs)]]
    for metric, title in titles.items():
        digits = 3 if metric == RATIO else 1
        changes = (_change(*found[metric, run.id], last[run.id], gaps.get((metric, run.id)), digits)
                   for run in view.runs)  # fmt: skip
        rows.append([title, *changes])
    if len(raw):
        counts = raw[raw["metric"].isin(["unparsable", "n"])].astype({"metric": str})
        summed = counts.groupby(["run", "metric", "edits"], sort=False, as_index=False)["value"].sum()
        sums = AtCheckpoints(summed)
        rows.append(["Answers that are no option", *(_unparsable(sums, run.id) for run in view.runs)])
    return rows


def _ends(values: AtCheckpoints, run: str, metric: str) -> tuple[float | None, float | None, int | None]:
    """A value before any edit, at the last checkpoint that has it, and how many edits that is."""
    first, _ = values.last(run, metric, 0)
    last, at = values.last(run, metric)
    return (first, last, at) if at else (first, None, None)


def _change(
    first: float | None,
    last: float | None,
    at: int | None,
    usual: int,
    gap: tuple[int, Interval] | None,
    digits: int,
) -> str:
    """A value before and after; at which checkpoint, where that is not the run's usual one.

    Args:
        first, last: the value before any edit, and after `at` edits.
        at: see there.
        usual: the checkpoint of most values of the run.
        gap: the checkpoint of the last answers, and the difference on them.
        digits: after the decimal point.
    """
    if last is None:
        return "–"
    late = "" if at == usual else f" after {at:,}"
    if first is None:
        return f"{last:,.{digits}f}{late}"
    if max(first, last) >= 1000:
        return f"{first:,.0f} → {last:,.0f}{late}"
    change, between = f"{last - first:+.{digits}f}", " "
    if gap is not None and gap[0] == at and gap[1].low is not None and gap[1].n >= FEWEST:
        change += f", 95 %: {gap[1].low:+.1f} to {gap[1].high:+.1f}, n {gap[1].n}"
        between = "\n"
    return minus(f"{first:.{digits}f} → {last:.{digits}f}{between}({change}){late}")


def _unparsable(sums: AtCheckpoints, run: str) -> str:
    """How many answers of all tasks were none of the options, before and after."""
    first, last, _ = _ends(sums, run, "unparsable")
    n, _ = sums.last(run, "n")
    return "–" if first is None or last is None or n is None else f"{first:.0f} → {last:.0f} of {n:.0f}"
