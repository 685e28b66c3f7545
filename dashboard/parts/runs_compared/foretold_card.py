"""Contributions: which layers pay for the edits, foretold from statistics, beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import streamlit as st

from dashboard.charts import foretold as charts
from dashboard.charts.runs import Line
from dashboard.elements import chart_card, widgets
from dashboard.reading import foretold_rows, run_frames
from encore_core.runs import RunInfo


def show(runs: Sequence[RunInfo], lines: Sequence[Line]) -> None:
    """Draw the card; nothing where nothing was foretold.

    Args:
        runs: those shown.
        lines: the same, as charts draw them.
    """
    frame = foretold_rows.of_runs(run_frames.measures(runs))
    there = set(frame["run"])
    drawn = [line for line in lines if line.run in there]
    if not drawn:
        return
    with st.container(border=True, key="card_foretold"):
        names = {line.run: line.name for line in drawn}
        chart_card.show(
            partial(charts.over_edits, frame, drawn),
            key="foretold over edits",
            heading="Which layers' changes cost most",
            aside="what the edits cost other text, estimated by layer, and measured as the logarithm of the perplexity "
            "ratio",
            alt=f"Estimated damage against edits, a line per edited layer: {', '.join(names.values())}. Its figures "
            "are in the CSV file below.",
            frame=frame,
            commands=chart_card.commands_of([run for run in runs if run.id in there]),
            revision=" ".join(names),
        )
        for words in foretold_rows.what_costs_most(frame, names):
            widgets.remark(words)
        st.caption(
            "½ tr(F Δ C₀ Δᵀ) of each layer, from statistics of general text alone. It tells which edits cost more, not "
            "how much: see benchmarks/RESULTS.md for how far it lies from a measured KL."
        )
