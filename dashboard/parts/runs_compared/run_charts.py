"""Norms of runs side by side, and what their models say, with a mark at the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd
import streamlit as st

from dashboard.charts import runs as charts
from dashboard.charts.chart import Chart
from dashboard.charts.palette import Palette
from dashboard.elements import chart_cache, figure, widgets
from dashboard.parts.runs_compared.view import View
from dashboard.reading.run_words import STRIP, SUBSETS, Measure


def charts_of(
    view: View, norms: pd.DataFrame, scores: pd.DataFrame, measures: Sequence[Measure], colours: Palette
) -> dict[str, Chart]:
    """Heading → chart of the page, in order."""
    growth = partial(charts.norms, norms, view.lines, scale=view.scale, layers=view.layers, at=view.at)
    found = {"Norm of the edited matrices": chart_cache.chart(growth, colours)}
    titles = {measure.name: measure.title for measure in measures if measure.name in STRIP}
    if titles:
        said = partial(charts.scores, scores, view.lines, titles, at=view.at)
        found["What the model says"] = chart_cache.chart(said, colours)
    return found


def draw(view: View, found: Mapping[str, Chart]) -> None:
    """Draw charts as `charts_of` makes them, with the choice of facts above the one that scores them."""
    for number, (heading, chart) in enumerate(found.items()):
        widgets.heading(heading, f"{'dotted line: ' if number == 0 else ''}after {view.at:,} edits")
        if number == 1:
            st.segmented_control(
                "Facts that are scored",
                list(SUBSETS),
                key="compare_facts",
                format_func=SUBSETS.get,
                required=True,
                persist_state="session",
            )
        figure.draw(
            chart,
            key=f"compare chart {number + 1}",
            # Changes when a zoom into the chart would mean something else.
            revision=" ".join([view.scale if number == 0 else view.subset, *view.ids]),
            alt=f"{heading} of {', '.join(run.method for run in view.runs)}; figures are in the table below.",
        )
