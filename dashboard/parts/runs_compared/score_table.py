"""Every measure of every run at a checkpoint, the best of each marked."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from dashboard.elements import widgets
from dashboard.parts.runs_compared.view import View
from dashboard.reading import html_report
from dashboard.reading.run_words import SUBSETS, Measure
from dashboard.reading.scores_at_checkpoint import AtCheckpoints


def draw(view: View, rows: Sequence[Sequence[object]]) -> html_report.Table:
    """Draw the table of these rows, as `rows_of` makes them; the same as files have it."""
    table = html_report.Table(
        ("Measure", *view.names, "What it is"),
        [[_plain(cell) for cell in row] for row in rows],
        f"After {view.at:,} edits; scores on {SUBSETS[view.subset]}",
    )
    widgets.heading(f"After {view.at:,} edits", f"scores on {SUBSETS[view.subset]}")
    columns = [("Measure", "name"), *((name, "right") for name in view.names), ("What it is", "about")]
    widgets.table(columns, rows, table.caption)
    return table


def rows_of(view: View, scores: pd.DataFrame, measures: Sequence[Measure]) -> list[list]:
    """Rows of the table: measure, a cell a run with the best marked by symbol and word, what it is."""
    values = AtCheckpoints(scores)
    rows = []
    for measure in measures:
        found = [values.last(run.id, measure.name, view.at) for run in view.runs]
        shown = [round(value, measure.digits) if value is not None else None for value, _ in found]
        best = _best(measure, shown)
        cells: list[object] = []
        for (_, when), value in zip(found, shown, strict=True):
            text = "–" if value is None else f"{value:,.{measure.digits}f}"
            late = f" (after {when:,})" if value is not None and when != view.at else ""
            is_best = value is not None and value == best
            cells.append((f"✓ best {text}{late}", "good") if is_best else f"{text}{late}")
        rows.append([measure.title, *cells, measure.about])
    return rows


def _best(measure: Measure, values: Sequence[float | None]) -> float | None:
    """The best of some values; None when there is nothing to choose between."""
    there = [value for value in values if value is not None]
    if len(set(there)) < 2 or not measure.best:
        return None
    if measure.best == "one":
        return min(there, key=lambda value: abs(value - 1))
    return max(there) if measure.best == "high" else min(there)


def _plain(cell: object) -> str:
    return cell[0] if isinstance(cell, tuple) else str(cell)
