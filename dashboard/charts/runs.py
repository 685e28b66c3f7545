"""Runs over edits: norms by layer, and whatever was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from dashboard.charts.chart import Chart
from dashboard.charts.labels import label
from dashboard.charts.palette import DASHES, LAYER_MARKS, Palette
from dashboard.charts.panels import Panels

NARROW_NAME = 22
"""Longest name, in characters, above half a narrow page."""

SCALES = ("ratio", "linear", "log")
SYMBOLS = ("circle", "square", "diamond", "triangle-up")
MARKED_POINTS = 12
"""Lines of at most this many points have a mark on each: every mark is an element of the page, which takes time."""

BAND = 0.13
"""How opaque the band of an interval is: four of them still let the lines be seen."""

LONG_STEP = 1.5
"""A step between two checkpoints is a gap if it is so many times the usual one."""

RATIO = "perplexity_ratio"
LEAST_RATIOS = (0.8, 2.0)
"""The range of an axis of perplexities, as ratios to the unedited model's, goes at least from here to there."""

RATIO_TICKS = (0.1, 0.2, 0.5, 0.8, 1, 1.2, 1.5, 2, 3, 5, 10, 20)

TOLD_APART_POINTS = 40
"""The same where the marks distinguish runs of one method."""


@dataclass(frozen=True)
class Line:
    """A run as charts draw it.

    Attributes:
        run: its id, as in the frames.
        method: gives colour and dash.
        name: above its panel and in the legend.
        layers: its edited blocks.
        repeat: which of several runs of one method it is, from 0; the marks distinguish them.
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
    """Frobenius norms of the matrices against edits: one panel per run, with the same axes; a line per layer.

    Args:
        frame: columns run, edits, layer, norm, ratio.
        lines: the runs, one panel each.
        colours: the theme's.
        scale: "ratio" for ‖W‖/‖W₀‖, "linear" or "log" for the norm itself.
        layers: those to draw; the edited ones of each run by default. Layers that a run does not edit are grey.
        at: edits marked by a vertical line.
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
    # Equally tall in every panel, because they share their axis.
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
        cliponaxis=False,
        name=f"layer {layer}" if is_edited else "other layers",
        legendgroup=str(group),
        legendrank=1000 + layer,
        showlegend=group not in legend,
        line={"color": ramp[layer] if is_edited else panels.colours.line, "width": 2.5 if is_edited else 1.2},
        marker={"size": 7 if is_edited else 6, "symbol": _mark(layer, ramp)},
        hovertemplate=f"layer {layer}  %{{y:.4~g}}<extra></extra>" if is_edited else None,
        hoverinfo=None if is_edited else "skip",
    )
    legend.add(group)


def _mark(layer: int, ramp: Mapping[int, str]) -> str:
    """What marks a layer's points: in order of the edited ones."""
    return LAYER_MARKS[[*ramp].index(layer) % len(LAYER_MARKS)] if layer in ramp else "circle"


def _draw_as_loaded(panels: Panels, number: int, edits: pd.Series, legend: set[object]) -> None:
    """The level of the model as loaded. A trace: a line of the layout would stretch the range of a logarithmic axis."""
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
    fitted: bool = False,
) -> Chart:
    """Measures against edits: one panel per measure, a line per run.

    Args:
        frame: columns run, edits, metric, value; low and high where a line has a band, its 95 % interval. Scores from
            0 to 100 share their axis; the ratio of perplexities has a logarithmic one that is never too narrow.
        lines: the runs.
        titles: metric → title of its panel, in order.
        colours: the theme's.
        at: edits marked by a vertical line.
        height: of a row of panels in pixels.
        fitted: whether the axis of scores goes from 0 only as far as they do.
    """
    panels = Panels([(f"<b>{title}</b>",) * 2 for title in titles.values()], colours, height)
    most = TOLD_APART_POINTS if any(line.repeat for line in lines) else MARKED_POINTS
    own: list[int] = []
    for number, metric in enumerate(titles):
        of_metric = frame[frame["metric"] == metric]
        is_score = metric not in ("perplexity", RATIO, "generation_entropy", "foretold_damage", "norm_ratio")
        own += [] if is_score else [number]
        for line in lines:
            part = with_gaps(of_metric[of_metric["run"] == line.run])
            shown = number == 0 and len(lines) > 1
            colour = colours.method(line.method)
            draw_band(panels, number, part, line.run, colour)
            panels.scatter(
                number,
                x=part["edits"],
                y=part["value"],
                mode=_mode(part, most),
                cliponaxis=False,
                name=label(line.name, 40),
                legendgroup=line.run,
                showlegend=shown,
                line={"color": colour, "width": 2.5, "dash": DASHES.get(line.method, "solid")},
                marker={"size": 7, "symbol": SYMBOLS[line.repeat % len(SYMBOLS)], "color": colour},
                customdata=hovers(part, 0 if is_score else 3 if metric == RATIO else 1),
                hovertemplate=f"{label(line.name, 30)}  %{{customdata}}<extra></extra>",
            )
        if is_score:
            panels.mark(number, at, pd.Series([0.0, of_metric["value"].max() if fitted else 100.0]))
        else:
            panels.mark(number, at, of_metric["value"])
    scores_of_100 = [number for number in range(len(titles)) if number not in own]
    most = 3 if len(titles) in (5, 6) else 4
    chart = panels.finished("", shared_y=False, columns=(most, 2), hundred=() if fitted else scores_of_100,
                              outer_labels=True)  # fmt: skip
    _fit(chart, scores_of_100 if fitted else (), list(titles), frame)
    if RATIO in titles:
        _make_ratio(chart, list(titles).index(RATIO), frame.loc[frame["metric"] == RATIO, "value"])
    return chart


def with_gaps(part: pd.DataFrame) -> pd.DataFrame:
    """A measure's rows, with one without a value where a checkpoint was left out: the line breaks there.

    Args:
        part: rows of one measure of a run, by edits.
    """
    steps = part["edits"].diff()
    left_out = steps > LONG_STEP * steps.median()
    if not left_out.any():
        return part
    between = (part["edits"] - steps / 2)[left_out]
    return pd.concat([part, pd.DataFrame({"edits": between})]).sort_values("edits", kind="stable")


def draw_band(panels: Panels, number: int, part: pd.DataFrame, run: str, colour: str) -> None:
    """The 95 % interval around a line, where there is one at two points in a row; it breaks where some are missing."""
    if "low" not in part:
        return
    known = with_gaps(part[part["low"].notna() & part["high"].notna()])
    breaks = known["low"].isna().cumsum()
    pieces = [piece.dropna(subset=["low"]) for _, piece in known.groupby(breaks)]
    x: list[float | None] = []
    y: list[float | None] = []
    for piece in pieces:
        if len(piece) > 1:
            x += [*piece["edits"], *piece["edits"][::-1], None]
            y += [*piece["high"], *piece["low"][::-1], None]
    if not x:
        return
    panels.scatter(
        number,
        x=x[:-1],
        y=y[:-1],
        mode="lines",
        fill="toself",
        fillcolor=f"rgba({', '.join(str(int(colour[at : at + 2], 16)) for at in (1, 3, 5))}, {BAND})",
        line={"width": 0},
        hoverinfo="skip",
        legendgroup=run,
        showlegend=False,
    )


def hovers(part: pd.DataFrame, digits: int) -> list[str]:
    """A value with its interval and n, for the hover."""
    if "low" not in part:
        return [f"{value:.{digits}f}" for value in part["value"]]
    return [
        f"{row.value:.{digits}f}"
        + (f" ({row.low:.{digits}f} to {row.high:.{digits}f}, n {row.n:.0f})" if row.low == row.low else "")
        for row in part.itertuples()
    ]


def _fit(chart: Chart, numbers: Sequence[int], metrics: Sequence[str], frame: pd.DataFrame) -> None:
    """Axes from 0 as far as scores go, with the room of a mark below and above."""
    for number in numbers:
        of_metric = frame.loc[frame["metric"] == metrics[number]]
        most = float(of_metric.reindex(columns=["value", "high"]).max(axis=None)) or 1.0
        for layout in chart.layouts:
            layout[f"yaxis{number + 1 if number else ''}"]["range"] = [-0.04 * most, 1.06 * most]


def _make_ratio(chart: Chart, number: int, values: pd.Series) -> None:
    """A logarithmic axis that shows at least `LEAST_RATIOS`, so that a change of some per cent looks like one."""
    finite = values[(values > 0) & (values < float("inf"))]
    low, high = (finite.min() / 1.1, finite.max() * 1.1) if len(finite) else LEAST_RATIOS
    for layout in chart.layouts:
        layout[f"yaxis{number + 1 if number else ''}"].update(
            ratio_axis(min(low, LEAST_RATIOS[0]), max(high, LEAST_RATIOS[1]))
        )


def ratio_axis(low: float, high: float) -> dict[str, object]:
    """An axis of ratios from `low` to `high`, logarithmic, as plotly's layout has it."""
    ends = [math.log10(low), math.log10(high)]
    ticks = RATIO_TICKS if ends[1] - ends[0] < 1.5 else [10**power for power in range(-6, 13)]
    return {"type": "log", "range": ends, "tickvals": ticks, "ticktext": [f"× {tick:,g}" for tick in ticks]}


def panel_title(line: Line, colours: Palette, width: int) -> str:
    """The title of a run's panel: its name in its method's colour."""
    return f'<span style="color:{colours.method(line.method)}"><b>{label(line.name, width)}</b></span>'


def _mode(part: pd.DataFrame, most: int) -> str:
    """How a line is drawn: with a mark on each point, where there are few enough."""
    return "lines+markers" if len(part) <= most else "lines"


def up_to(chart: Chart, n_edits: int) -> Chart:
    """A chart over edits whose axis goes to a number of edits, however far its lines have come; every point is marked.

    Args:
        chart: from `norms` or `scores`; it is changed.
        n_edits: of the whole run.
    """
    for layout in chart.layouts:
        for name, axis in layout.items():
            if name.startswith("xaxis"):
                axis.update(range=[-0.03 * n_edits, 1.03 * n_edits], autorange=False)
    for trace in chart.traces:
        if trace["type"] == "scatter" and trace.get("hovertemplate"):
            trace.update(mode="lines+markers", cliponaxis=False)
    return chart
