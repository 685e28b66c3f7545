"""Runs over edits: norms by layer, and whatever was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from dashboard.charts.chart import Chart
from dashboard.charts.labels import label
from dashboard.charts.palette import DASHES, Palette
from dashboard.charts.panels import Panels

NARROW_NAME = 22
"""Characters of a name above half a narrow page."""

SCALES = ("ratio", "linear", "log")
SYMBOLS = ("circle", "square", "diamond", "triangle-up")
MARKED_POINTS = 12
"""Lines of at most so many points have a mark on each: every mark is an element of the page, which takes its time."""

TOLD_APART_POINTS = 40
"""The same where the marks tell runs of one method apart."""


@dataclass(frozen=True)
class Line:
    """A run as charts draw it.

    Attributes:
        run: its id, as in the frames.
        method: gives colour and dash.
        name: what stands above its panel and in the legend.
        layers: its edited blocks.
        repeat: which of several runs of one method it is, from 0; told apart by the marks.
    """

    run: str
    method: str
    name: str
    layers: tuple[int, ...]
    repeat: int = 0


def norms(
    frame: pd.DataFrame,
    lines: Sequence[Line],
    colours: Palette,
    *,
    scale: str = "ratio",
    layers: Sequence[int] | None = None,
    at: int | None = None,
    height: int = 320,
) -> Chart:
    """Frobenius norms of the matrices against edits: one panel a run, with the same axes; a line a layer.

    Args:
        frame: columns run, edits, layer, norm, ratio.
        lines: the runs, one panel each.
        colours: the theme's.
        scale: "ratio" for ‖W‖/‖W₀‖, "linear" or "log" for the norm itself.
        layers: those to draw; the edited ones of each run by default. Layers that a run does not edit are grey.
        at: edits where a vertical line stands.
        height: of a row of panels in pixels.
    """
    value = "ratio" if scale == "ratio" else "norm"
    panels = Panels(
        [(panel_title(line, colours, 34), panel_title(line, colours, NARROW_NAME)) for line in lines], colours, height
    )
    edited = sorted({layer for line in lines for layer in line.layers})
    ramp = dict(zip(edited, colours.layers(len(edited)), strict=True)) if edited else {}
    legend: set[object] = set()
    drawn: list[pd.Series] = []
    for number, line in enumerate(lines):
        of_run = frame[frame["run"] == line.run]
        by_layer = dict(list(of_run.groupby("layer", sort=True)))
        shown = [layer for layer in (line.layers if layers is None else layers) if layer in by_layer]
        # The edited layers on top of the grey ones.
        for layer in sorted(shown, key=lambda layer: (layer in line.layers, layer)):
            _draw_layer(panels, number, by_layer[layer], value, layer, ramp if layer in line.layers else {}, legend)
        if scale == "ratio" and len(of_run):
            _draw_as_loaded(panels, number, of_run["edits"], legend)
        drawn.append(of_run[of_run["layer"].isin(shown)][value])
    # As tall in every panel: they share their axis.
    values = pd.concat(drawn) if drawn else pd.Series(dtype=float)
    for number, of_run in enumerate(drawn):
        if len(of_run):
            panels.mark(number, at, values)
    name = "‖W‖ / ‖W₀‖" if scale == "ratio" else "‖W‖, logarithmic" if scale == "log" else "‖W‖"
    return panels.finished(name, shared_y=True, log=scale == "log", columns=(4, 2))


def _draw_layer(
    panels: Panels,
    number: int,
    part: pd.DataFrame,
    value: str,
    layer: int,
    ramp: Mapping[int, str],
    legend: set[object],
) -> None:
    """The line of one layer: in its colour of the ramp, or grey where the ramp has none for it."""
    is_edited = layer in ramp
    group = layer if is_edited else "others"
    panels.scatter(
        number,
        x=part["edits"],
        y=part[value],
        mode=_mode(part, MARKED_POINTS if is_edited else 0),
        name=f"layer {layer}" if is_edited else "other layers",
        legendgroup=str(group),
        legendrank=1000 + layer,
        showlegend=group not in legend,
        line={"color": ramp[layer] if is_edited else panels.colours.line, "width": 2.5 if is_edited else 1.2},
        marker={"size": 6},
        hovertemplate=f"layer {layer}  %{{y:.4~g}}<extra></extra>" if is_edited else None,
        hoverinfo=None if is_edited else "skip",
    )
    legend.add(group)


def _draw_as_loaded(panels: Panels, number: int, edits: pd.Series, legend: set[object]) -> None:
    """The level of the model as loaded. A trace: a line of the layout would blow the range of a logarithmic axis."""
    panels.scatter(
        number,
        x=[edits.min(), max(edits.max(), 1)],
        y=[1, 1],
        mode="lines",
        name="as loaded",
        legendgroup="loaded",
        legendrank=3000,
        showlegend="loaded" not in legend,
        hoverinfo="skip",
        line={"color": panels.colours.muted, "width": 1.2, "dash": "dot"},
    )
    legend.add("loaded")


def scores(
    frame: pd.DataFrame,
    lines: Sequence[Line],
    titles: Mapping[str, str],
    colours: Palette,
    *,
    at: int | None = None,
    height: int = 230,
) -> Chart:
    """Whatever was measured, against edits: one panel a measure, a line a run.

    Args:
        frame: columns run, edits, metric, value. Scores from 0 to 100 share their axis; perplexity has its own.
        lines: the runs.
        titles: metric → title of its panel, in order.
        colours: the theme's.
        at: edits where a vertical line stands.
        height: of a row of panels in pixels.
    """
    panels = Panels([(f"<b>{title}</b>",) * 2 for title in titles.values()], colours, height)
    most = TOLD_APART_POINTS if any(line.repeat for line in lines) else MARKED_POINTS
    own: list[int] = []
    for number, metric in enumerate(titles):
        of_metric = frame[frame["metric"] == metric]
        is_score = metric not in ("perplexity", "generation_entropy", "norm_ratio")
        own += [] if is_score else [number]
        for line in lines:
            part = of_metric[of_metric["run"] == line.run]
            shown = number == 0 and len(lines) > 1
            colour = colours.method(line.method)
            panels.scatter(
                number,
                x=part["edits"],
                y=part["value"],
                mode=_mode(part, most),
                name=label(line.name, 40),
                legendgroup=line.run,
                showlegend=shown,
                line={"color": colour, "width": 2.5, "dash": DASHES.get(line.method, "solid")},
                marker={"size": 7, "symbol": SYMBOLS[line.repeat % len(SYMBOLS)], "color": colour},
                hovertemplate=f"{label(line.name, 30)}  %{{y:.{0 if is_score else 1}f}}<extra></extra>",
            )
        if is_score:
            panels.mark(number, at, pd.Series([0.0, 100.0]))
        else:
            panels.mark(number, at, of_metric["value"])
    scores_of_100 = [number for number in range(len(titles)) if number not in own]
    return panels.finished("", shared_y=False, columns=(4, 2), hundred=scores_of_100, outer_labels=True)


def panel_title(line: Line, colours: Palette, width: int) -> str:
    """What stands above a run's panel: its name in its method's colour."""
    return f'<span style="color:{colours.method(line.method)}"><b>{label(line.name, width)}</b></span>'


def _mode(part: pd.DataFrame, most: int) -> str:
    """How a line is drawn: with a mark on each point, where there are at most so many."""
    return "lines+markers" if len(part) <= most else "lines"
