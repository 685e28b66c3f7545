"""The curves of one run: growth of its edited matrices, and its scores. Made again only at checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from dashboard.charts import runs as run_charts
from dashboard.charts.chart import Chart
from dashboard.charts.palette import Palette
from dashboard.elements import figure, theme, widgets
from dashboard.reading import run_frames
from dashboard.reading.run_words import MEASURES, STRIP
from encore_core.runs import RunInfo


@dataclass(frozen=True)
class _Curves:
    """The charts, and what they were made from."""

    made_of: tuple[object, ...]
    norms: Chart
    scores: Chart | None


def draw(run: RunInfo, place: str) -> None:
    """Draw them.

    Args:
        run: measured at one checkpoint at least.
        place: of the curves; their keys begin with it.
    """
    colours = theme.palette()
    made_of = (run_frames.version(run), colours.page)
    kept: _Curves | None = st.session_state.get(f"{place} charts")
    if kept is None or kept.made_of != made_of:
        st.session_state[f"{place} charts"] = kept = _made(run, colours, made_of)
    if kept.scores is not None:
        widgets.heading("Scores and perplexity", "scores in %, of a sample of the facts edited so far; bands: 95 %")
        figure.draw(kept.scores, key=f"{place} scores", revision=run.id, alt=f"Scores of {run.id} over edits")
    widgets.heading("Growth of the edited matrices", "norm against the norm as loaded, a line for each layer")
    figure.draw(
        kept.norms, key=f"{place} norms", revision=run.id, alt=f"Norm ratio of the edited layers of {run.id} over edits"
    )


def _made(run: RunInfo, colours: Palette, made_of: tuple[object, ...]) -> _Curves:
    line = run_frames.lines([run])
    scores = run_frames.scores([run], "sample")
    titles = {m.name: m.title for m in MEASURES if m.name in STRIP and m.name in set(scores["metric"].astype(str))}
    norms = run_charts.norms(run_frames.read("norms", [run]), line, colours, height=240)
    strip = run_charts.scores(scores, line, titles, colours, height=190) if titles else None
    for chart in filter(None, (norms, strip)):
        run_charts.up_to(chart, run.n_edits)
    return _Curves(made_of, norms, strip)
