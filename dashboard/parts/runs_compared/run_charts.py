"""Runs side by side, a row per measure, and the norms of their matrices layer by layer, marked at the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard.charts import runs as charts
from dashboard.charts import small_multiples
from dashboard.charts.chart import Chart
from dashboard.charts.downstream import MEAN
from dashboard.charts.palette import Palette
from dashboard.charts.runs import RATIO
from dashboard.charts.small_multiples import Row
from dashboard.elements import chart_cache, figure, widgets
from dashboard.parts.runs_compared.view import View
from dashboard.reading import run_frames
from dashboard.reading.run_words import MEASURES, PARTS, SUBSETS

FARE, NORMS = "How the models fare", "Norm of the edited matrices, layer by layer"
GENERATED = ("generated_edit_contained", "generation_efficacy")
"""What is generated: the measure that all runs have, the first one first."""

ROWS = (
    Row(RATIO, "Perplexity", is_score=False, digits=2),
    Row(MEAN, "Tasks, F1"),
    Row("edit_score", "Edit, %"),
    Row("paraphrase_score", "Paraphrase, %"),
    Row("neighborhood_score", "Neighbours, %"),
    *(Row(name, "Generated, %") for name in GENERATED),
    Row("norm_ratio", "‖W‖ / ‖W₀‖", is_score=False, digits=3),
)


def rows_of(view: View, scores: pd.DataFrame) -> list[Row]:
    """The rows that at least one run fills; of what is generated, one."""
    known = scores[scores["value"].notna()]
    runs = {str(metric): set(part["run"]) for metric, part in known.groupby("metric", observed=True)}
    generated = max(GENERATED, key=lambda name: len(runs.get(name, ())))  # the first one on a tie
    return [row for row in ROWS if row.metric in runs and (row.metric not in GENERATED or row.metric == generated)]


def charts_of(
    view: View,
    norms: pd.DataFrame,
    scores: pd.DataFrame,
    limits: Mapping[tuple[str, str], float],
    colours: Palette,
) -> dict[str, Chart]:
    """Heading → chart of the page, in order.

    Args:
        view: what is shown.
        norms, scores: of its runs.
        limits: of `collapse_card.limits`.
        colours: the theme's.
    """
    found = {}
    rows = rows_of(view, scores)
    if rows:
        fare = partial(small_multiples.grid, scores, view.lines, rows, at=view.at, limits=limits)
        found[FARE] = chart_cache.chart(fare, colours)
    growth = partial(charts.norms, norms, view.lines, scale=view.scale, layers=view.layers, at=view.at)
    return found | {NORMS: chart_cache.chart(growth, colours)}


def draw_fare(view: View, found: Mapping[str, Chart], shown: Sequence[Row], above: DeltaGenerator) -> None:
    """The small multiples, with the choice of facts that are scored above them.

    Args:
        view: what is shown.
        found: charts, from `charts_of`.
        shown: rows of the multiples, from `rows_of`.
        above: a place for the heading.
    """
    with above:
        widgets.heading(FARE, f"dotted: after {view.at:,} edits; dashed across: the threshold")
    st.segmented_control(
        "Facts that are scored",
        list(SUBSETS),
        key="compare_facts",
        format_func=SUBSETS.get,
        required=True,
        persist_state="session",
    )
    if FARE in found:
        _draw(view, found, FARE, 1, view.subset, f"values after {view.at:,} edits are in the table below")
        widgets.caption(f"{_meanings(shown)} {run_frames.gaps(view.runs, PARTS)}".strip())


def _meanings(rows: Sequence[Row]) -> str:
    """What each row of panels shows, in words."""
    about = {measure.name: measure.about for measure in MEASURES}
    return " ".join(f"{row.title.partition(',')[0]}: {about[row.metric]}." for row in rows)


def draw_norms(view: View, found: Mapping[str, Chart], above: DeltaGenerator) -> None:
    """The norms, as scale and layers have been chosen; `above` is a place for the heading."""
    with above:
        widgets.heading(NORMS, f"dotted line: after {view.at:,} edits")
    _draw(view, found, NORMS, 2, view.scale, "the norms are a file under Download")


def _draw(view: View, found: Mapping[str, Chart], heading: str, number: int, meaning: str, where: str) -> None:
    """Draw a chart of the page; `meaning` changes with what a zoom would mean, `where` says where its values are."""
    figure.draw(
        found[heading],
        key=f"compare chart {number}",
        # Changes when a zoom into the chart would mean something else.
        revision=" ".join([meaning, *view.ids]),
        alt=f"{heading} of {', '.join(run.method for run in view.runs)}; {where}.",
    )
