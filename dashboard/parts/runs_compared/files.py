"""Files of a comparison, and the link to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import streamlit as st

from dashboard.charts.chart import Chart
from dashboard.reading import html_report, run_frames
from encore_core.runs import RunInfo
from encore_core.runs.compare import differences
from encore_core.spreadsheets import neutral_csv


def offer(
    runs: Sequence[RunInfo],
    table: html_report.Table,
    light: Callable[[], Mapping[str, Chart]],
    link: str,
) -> None:
    """Downloads, and the link to this view.

    Args:
        runs: those compared.
        table: as files have it.
        light: makes the charts of the report; called when the report is asked for, on a thread that has no session
            state.
        link: to this view.
    """
    with st.container(horizontal=True, key="compare_offer"):
        with st.popover("Download", icon=":material/download:", key="compare_downloads"):
            for name, words in (("norms", "Norms"), ("scores", "Scores"), ("measures", "Perplexity and entropy")):
                st.download_button(
                    f"{words}, CSV",
                    lambda name=name: run_frames.csv(name, runs),
                    f"{name}.csv",
                    "text/csv",
                    on_click="ignore",
                    width="stretch",
                    key=f"csv_{name}",
                )
            st.download_button(
                "This table, CSV",
                lambda: neutral_csv(table.columns, table.rows),
                "comparison.csv",
                "text/csv",
                on_click="ignore",
                width="stretch",
                key="csv_table",
            )
            st.download_button(
                "Report, one HTML file",
                lambda: html_report.comparison(runs, light(), table, differences(runs), link),
                "comparison.html",
                "text/html",
                on_click="ignore",
                width="stretch",
                key="html_report",
            )
            st.caption("Charts as PNG or SVG: the two buttons at their top right.")
        with st.popover("Link to this view", icon=":material/link:", key="compare_link"):
            st.code(link, language=None, wrap_lines=True)
            st.caption("The address of this page says the same. It works wherever this store is served.")
