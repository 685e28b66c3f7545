"""A chart and what belongs to it: heading, its data, a file of it, and the command that reproduces the data."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard.charts.chart import Chart
from dashboard.charts.palette import LIGHT
from dashboard.elements import chart_cache, figure, theme, widgets
from dashboard.reading import html_report
from dashboard.reading.run_words import command_of
from encore_core.runs import RunInfo, series


def show(
    make: partial[Chart],
    *,
    key: str,
    heading: str,
    aside: str = "",
    alt: str,
    frame: pd.DataFrame,
    commands: Sequence[str] = (),
    revision: str = "",
    above: DeltaGenerator | None = None,
) -> None:
    """Draw a chart with its heading, and offer its data and code.

    Args:
        make: as for `chart_cache.chart`; called again, in light colours, when a file is asked for.
        key: of the element, and the file's name.
        heading, aside: above it.
        alt: what it shows, for screen readers; says where its figures are in a table.
        frame: the rows that it shows.
        commands: that reproduce these data, see `commands_of`.
        revision: the reader's zoom is kept as long as this stays the same.
        above: an empty place for the heading, in a card where controls come between it and the chart.
    """
    with above or nullcontext():
        widgets.heading(heading, aside)
    figure.draw(chart_cache.chart(make, theme.palette()), key=key, alt=alt, revision=revision)
    name = f"encore-{key.replace(' ', '-')}"
    with st.popover("Data and code", icon=":material/database:", key=f"behind {key}"):
        st.download_button(
            "What is shown, CSV",
            lambda: series.as_csv(frame),
            f"{name}.csv",
            "text/csv",
            on_click="ignore",
            width="stretch",
            key=f"csv of {key}",
        )
        st.download_button(
            "The chart, one HTML file",
            lambda: html_report.single(heading, aside, make(colours=LIGHT), commands),
            f"{name}.html",
            "text/html",
            on_click="ignore",
            width="stretch",
            key=f"html of {key}",
        )
        st.caption("As PNG or SVG: the two buttons at the chart's top right.")
        if commands:
            st.caption("The command that reproduces these data")
            st.code("\n".join(commands), language=None, wrap_lines=True)


def commands_of(runs: Sequence[RunInfo]) -> list[str]:
    """The commands that repeat some runs."""
    return list(map(command_of, runs))
