"""The paper's tables as dots: a panel per quantity, a row per method, a mark per model, hollow if measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dashboard.charts.chart import Chart
from dashboard.charts.labels import label
from dashboard.charts.palette import Palette
from dashboard.charts.panels import Panels

SYMBOLS = ("circle", "square", "triangle-up")
ROW_HEIGHT, LEAST_HEIGHT = 34, 110
WIDEST_NAME = 22
_CHARACTER = 7.2  # pixels of a row's name


@dataclass(frozen=True)
class Panel:
    """A quantity as its panel shows it.

    Attributes:
        quantity: as in the frame.
        title: above the panel.
        axis: "hundred" from 0 to 100, "one" from 0 to 1, or "zero" from 0.
    """

    quantity: str
    title: str
    axis: str


def dots(
    frame: pd.DataFrame,
    panels: Sequence[Panel],
    rows: Sequence[str],
    sources: Mapping[str, bool],
    colours: Palette,
) -> Chart:
    """Published figures and those measured here, never joined by a line and never averaged.

    Args:
        frame: row, quantity, source, value, shown (the figure in words).
        panels: the quantities.
        rows: methods, the first at the top.
        sources: names of the marks, in the legend's order → whether it was measured here.
        colours: the theme's.
    """
    height = max(LEAST_HEIGHT, ROW_HEIGHT * len(rows))
    made = Panels([(f"<b>{panel.title}</b>",) * 2 for panel in panels], colours, height)
    place = {row: len(rows) - 1 - number for number, row in enumerate(rows)}
    shift = dict(zip(sources, _shifts(len(sources)), strict=True))
    looks = _looks(sources, colours)
    legend: set[str] = set()
    for number, panel in enumerate(panels):
        for source, is_ours in sources.items():
            part = frame[(frame["quantity"] == panel.quantity) & (frame["source"] == source)]
            if part.empty:
                continue
            made.scatter(
                number,
                x=part["value"],
                y=part["row"].map(place) + shift[source],
                mode="markers",
                cliponaxis=False,
                name=label(source, 48),
                legendgroup=source,
                legendrank=2000 if is_ours else 1000,
                showlegend=source not in legend,
                marker=looks[source],
                customdata=[[label(row, 40), shown] for row, shown in zip(part["row"], part["shown"], strict=True)],
                hovertemplate=f"%{{customdata[0]}}  <b>%{{customdata[1]}}</b><br>{label(source, 60)}<extra></extra>",
            )
            legend.add(source)
    chart = made.finished("", shared_y=True, columns=(5, 2))
    for layout in chart.layouts:
        _along_values(layout, panels, rows, colours)
    return chart


def _shifts(n: int) -> list[float]:
    """How far the marks of a row are above and below its middle, so that they do not cover each other."""
    step = min(0.3, 0.66 / max(n, 1))
    return [((n - 1) / 2 - number) * step for number in range(n)]


def _looks(sources: Mapping[str, bool], colours: Palette) -> dict[str, dict]:
    """A mark for each source: published ones filled, in greys and by shape; those measured here hollow."""
    theirs = [source for source, is_ours in sources.items() if not is_ours]
    shades = colours.steps(len(theirs) + 1)[:-1]
    looks: dict[str, dict] = {
        source: {"symbol": SYMBOLS[number % len(SYMBOLS)], "color": shades[number], "size": 9}
        for number, source in enumerate(theirs)
    }
    for source, is_ours in sources.items():
        if is_ours:
            looks[source] = {"symbol": "diamond-open", "color": colours.ink, "size": 12, "line": {"width": 2.5}}
    return looks


def _along_values(layout: dict[str, Any], panels: Sequence[Panel], rows: Sequence[str], colours: Palette) -> None:
    """Turn panels over edits into panels over values, with a method per row."""
    names = [label(row, WIDEST_NAME) for row in reversed(rows)]
    longest = max((min(len(row), WIDEST_NAME) for row in rows), default=0)
    layout["hovermode"] = "closest"
    layout["margin"]["l"] = 20 + round(_CHARACTER * longest)
    for number, panel in enumerate(panels):
        suffix = str(number + 1) if number else ""
        axis = layout[f"xaxis{suffix}"]
        for name in ("matches", "title", "unifiedhovertitle", "tickformat", "hoverformat"):
            axis.pop(name, None)
        axis.update(_scale(panel.axis))
        layout[f"yaxis{suffix}"].update(
            range=[-0.6, len(rows) - 0.4],
            tickvals=list(range(len(rows))),
            ticktext=names,
            tickfont={"color": colours.ink, "size": 13},
        )


def _scale(axis: str) -> dict:
    if axis == "hundred":
        return {"range": [-4, 104], "tickvals": [0, 25, 50, 75, 100]}
    if axis == "one":
        return {"range": [-0.04, 1.04], "tickvals": [0, 0.25, 0.5, 0.75, 1], "ticktext": ["0", "", "0.5", "", "1"]}
    return {"nticks": 5, "tickformat": ",~g"}
