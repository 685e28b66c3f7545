"""Where the growth lands: norms of the matrices of every layer, at some checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from dashboard.charts.chart import Chart
from dashboard.charts.palette import Palette
from dashboard.charts.panels import Along, Panels
from dashboard.charts.runs import NARROW_NAME, Line, panel_title

BETWEEN = ("dash", "dashdot", "longdash", "longdashdot")
"""Dashes of the checkpoints between the first, which is dotted, and the last, which is solid."""

MOST_CHECKPOINTS = len(BETWEEN) + 2
TICK_EVERY = 4


def norms(
    frame: pd.DataFrame,
    lines: Sequence[Line],
    checkpoints: Sequence[int],
    colours: Palette,
    *,
    scale: str = "ratio",
    height: int = 320,
) -> Chart:
    """Frobenius norms against layer: one panel per run, with the same axes; a line per checkpoint.

    The matrices of edited layers are violet diamonds on every line, filled at the last checkpoint.

    Args:
        frame: columns run, edits, layer, norm, ratio.
        lines: the runs, one panel each.
        checkpoints: edits, at most `MOST_CHECKPOINTS`, ascending. A run without one of them has no line for it.
        colours: the theme's.
        scale: "ratio" for ‖W‖/‖W₀‖, "linear" or "log" for the norm itself.
        height: of a row of panels in pixels.
    """
    value = "ratio" if scale == "ratio" else "norm"
    titles = [(panel_title(line, colours, 34), panel_title(line, colours, NARROW_NAME)) for line in lines]
    panels = Panels(titles, colours, height, _along(frame))
    strokes = _strokes(checkpoints, colours)
    legend: set[str] = set()
    for number, line in enumerate(lines):
        of_run = frame[frame["run"] == line.run]
        for stroke in strokes:
            part = of_run[of_run["edits"] == stroke.at].sort_values("layer")
            if not part.empty:
                _draw(panels, number, part, value, stroke, legend)
                _mark_edited(panels, number, part, value, line, stroke, legend)
    name = {"ratio": "‖W‖ / ‖W₀‖", "log": "‖W‖, logarithmic"}.get(scale, "‖W‖")
    return panels.finished(name, shared_y=True, log=scale == "log", columns=(4, 2))


@dataclass(frozen=True)
class _Stroke:
    """How the line of a checkpoint is drawn.

    Attributes:
        at: edits of the checkpoint.
        number: of the checkpoint among those drawn, from 0.
        is_last: whether it is the last one.
        dash, shade: of the line.
    """

    at: int
    number: int
    is_last: bool
    dash: str
    shade: str

    @property
    def name(self) -> str:
        return "as loaded" if self.at == 0 else f"after {self.at:,} edits"


def _strokes(checkpoints: Sequence[int], colours: Palette) -> list[_Stroke]:
    dashes = ("dot", *BETWEEN[: len(checkpoints) - 2], "solid")[-len(checkpoints) :]
    shades = colours.steps(len(checkpoints))
    return [
        _Stroke(at, checkpoints.index(at), at == checkpoints[-1], dash, shade)
        for at, dash, shade in zip(checkpoints, dashes, shades, strict=True)
    ]


def _draw(panels: Panels, number: int, part: pd.DataFrame, value: str, stroke: _Stroke, legend: set[str]) -> None:
    """The line of one checkpoint in a panel; `legend` holds what is already in the legend."""
    panels.scatter(
        number,
        x=part["layer"],
        y=part[value],
        mode="lines",
        name=stroke.name,
        legendgroup=stroke.name,
        legendrank=1000 + stroke.number,
        showlegend=stroke.name not in legend,
        line={"color": stroke.shade, "width": 2.2, "dash": stroke.dash},
        hovertemplate=f"{stroke.name}  %{{y:.4~g}}<extra></extra>",
    )
    legend.add(stroke.name)


def _mark_edited(
    panels: Panels, number: int, part: pd.DataFrame, value: str, line: Line, stroke: _Stroke, legend: set[str]
) -> None:
    """The marks of a run's edited layers on the line of one checkpoint."""
    edited = part["layer"].isin(line.layers)
    panels.scatter(
        number,
        x=part["layer"][edited],
        y=part[value][edited],
        mode="markers",
        name="edited layer",
        legendgroup="edited",
        legendrank=2000,
        showlegend=stroke.is_last and bool(edited.any()) and "edited" not in legend,
        hoverinfo="skip",
        marker={
            "color": panels.colours.edited,
            "symbol": "diamond" if stroke.is_last else "diamond-open",
            "size": 9,
        },
    )
    if stroke.is_last and edited.any():
        legend.add("edited")


def _along(frame: pd.DataFrame) -> Along:
    ticks = range(0, int(frame["layer"].max()) + 1, TICK_EVERY) if len(frame) else ()
    return Along("layer", "layer %{x:d}", tuple((layer, str(layer)) for layer in ticks))
