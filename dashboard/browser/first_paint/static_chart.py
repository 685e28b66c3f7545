"""A chart of lines as plain markup, for a browser that has loaded no script yet.

Panels are where Plotly will put them, by the layouts of the chart: wide, narrow, or for phones, depending on the
container's width. Lines are drawn in a box of 1,000 by 1,000 that is stretched over its panel; strokes and dots keep
their form. Colours come as CSS variables, so that one text serves light and dark pages.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence

import numpy as np
import plotly.graph_objects as go

from dashboard.charts.chart import Chart

BOX = 1000
_AROUND = 0.05
"""Room around lines, in shares of an axis, and around their dots in pixels, as Plotly leaves it."""
_DOT_ROOM = 1.6 / 2
_TYPICAL_WIDTH = 230
"""Width of a panel in pixels; only the room beside the last dots depends on it."""
_DASHES = {"dot": "2 3", "dash": "7 5"}


def markup(chart: Chart, titles: Sequence[str], colours: Sequence[str], narrow: int, slim: int) -> str:
    """The chart.

    Args:
        chart: from `dashboard.charts`; its traces are lines, and its panels share their axes.
        titles: markup above each panel.
        colours: a CSS colour for each trace.
        narrow, slim: containers narrower than this many pixels use the narrow layout, and the one for phones.

    Returns:
        markup with its own style sheet; it is as wide as its container.
    """
    figure = chart.figure
    panels = sorted({_number(trace.xaxis) for trace in figure.data})
    x_range, y_range = _ranges(figure)
    x_ticks = ticks(*x_range, most=figure.layout.xaxis.nticks)
    y_ticks = ticks(*y_range, most=figure.layout.yaxis.nticks)
    parts = []
    for number in panels:
        traces = [(trace, colour) for trace, colour in zip(figure.data, colours, strict=True)
                  if _number(trace.xaxis) == number]  # fmt: skip
        lines = "".join(_line(trace, colour, x_range, y_range) for trace, colour in traces)
        grid = _grid(x_ticks, x_range, y_ticks, y_range)
        labels = "".join(_x_label(tick, x_range) for tick in x_ticks) + "".join(
            _y_label(tick, y_range) for tick in y_ticks
        )
        parts.append(
            f'<div class="es-still-panel es-still-{number}"><div class="es-still-title">{titles[number]}</div>'
            f'<svg viewBox="0 0 {BOX} {BOX}" preserveAspectRatio="none" aria-hidden="true">{grid}{lines}</svg>'
            f'{labels}<i class="es-still-along">{figure.layout.xaxis.title.text}</i>'
            f'<i class="es-still-up">{figure.layout.yaxis.title.text}</i></div>'
        )
    style = _placed(figure.layout, panels) + "".join(
        f"@container still (max-width:{below - 1}px){{{_placed(layout, panels)}}}"
        for below, layout in ((narrow, chart.narrow), (slim, chart.slim))
    )
    return (
        f'<div class="es-still-frame"><style>{style}</style><div class="es-still">{_legend(figure, colours)}'
        f"{''.join(parts)}</div></div>"
    )


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round values on an axis, 1, 2 or 5 times a power of ten apart, about as many as wanted."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def _number(axis: str | None) -> int:
    """Which panel an axis belongs to: "x" is the first one's, "x2" the second's."""
    return int((axis or "x")[1:] or 1) - 1


def _ranges(figure: go.Figure) -> tuple[tuple[float, float], tuple[float, float]]:
    """The ranges of the axes, the same for all panels: as far as the lines go and their dots need; x from 0."""
    x = np.concatenate([np.asarray(trace.x, dtype=float) for trace in figure.data])
    y = np.concatenate([np.asarray(trace.y, dtype=float) for trace in figure.data])
    dot = max((trace.marker.size for trace in figure.data if "markers" in (trace.mode or "")), default=0) * _DOT_ROOM
    height = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    room = _AROUND + dot / height
    low, high = float(np.nanmin(y)), float(np.nanmax(y))
    around = ((high - low) or 1.0) * room / (1 - 2 * room)
    # Lines without dots go to the end of the axis.
    right = max(float(np.nanmax(x)), 1.0) / (1 - _AROUND - dot / _TYPICAL_WIDTH if dot else 1)
    return (0.0, right), (low - around, high + around)


def _across(value: float, span: tuple[float, float]) -> float:
    return BOX * (value - span[0]) / (span[1] - span[0])


def _down(value: float, span: tuple[float, float]) -> float:
    return BOX - _across(value, span)


def _line(trace: go.Scatter, colour: str, x_range: tuple[float, float], y_range: tuple[float, float]) -> str:
    """A trace's line, broken where a value is missing, and its dots: lines without length, whose ends are round."""
    points = [(_across(float(x), x_range), _down(float(y), y_range)) for x, y in zip(trace.x, trace.y, strict=True)]
    dash = f' stroke-dasharray="{_DASHES[trace.line.dash]}"' if trace.line.dash in _DASHES else ""
    drawn = "".join(
        f'<path d="M{" ".join(f"{x:.1f} {y:.1f}" for x, y in run)}" stroke-width="{trace.line.width or 2}"{dash}/>'
        for run in _unbroken(points)
    )
    if "markers" in (trace.mode or ""):
        dots = "".join(f"M{x:.1f} {y:.1f}h0" for run in _unbroken(points) for x, y in run)
        drawn += f'<path d="{dots}" stroke-width="{trace.marker.size}" stroke-linecap="round"/>'
    return f'<g style="stroke:{colour}">{drawn}</g>'


def _unbroken(points: Sequence[tuple[float, float]]) -> Iterator[list[tuple[float, float]]]:
    run: list[tuple[float, float]] = []
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y):
            run.append((x, y))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _grid(
    x_ticks: Sequence[float], x_range: tuple[float, float], y_ticks: Sequence[float], y_range: tuple[float, float]
) -> str:
    drawn = [f"M{_across(tick, x_range):.1f} 0v{BOX}" for tick in x_ticks]
    drawn += [f"M0 {_down(tick, y_range):.1f}h{BOX}" for tick in y_ticks]
    return f'<path class="es-still-grid" d="{"".join(drawn)}"/>'


def _x_label(tick: float, span: tuple[float, float]) -> str:
    return f'<b class="es-still-x" style="left:{_across(tick, span) / BOX:.2%}">{tick:,.0f}</b>'


def _y_label(tick: float, span: tuple[float, float]) -> str:
    return f'<b class="es-still-y" style="top:{_down(tick, span) / BOX:.2%}">{tick:,.6g}</b>'


def _legend(figure: go.Figure, colours: Sequence[str]) -> str:
    named = [
        f'<span><i style="border-top-style:{"dotted" if trace.line.dash == "dot" else "solid"};color:{colour}"></i>'
        f"{html.escape(trace.name)}</span>"
        for trace, colour in sorted(zip(figure.data, colours, strict=True), key=lambda pair: pair[0].legendrank or 1000)
        if trace.showlegend
    ]
    return f'<div class="es-still-legend">{"".join(named)}</div>'


def _placed(layout: go.Layout, panels: Sequence[int]) -> str:
    """CSS rules that put the legend and every panel where a layout has them."""
    margin = layout.margin
    inner = layout.height - margin.t - margin.b
    rules = [f".es-still{{height:{layout.height}px}}", f".es-still-legend{{left:{margin.l}px;right:{margin.r}px}}"]
    for number in panels:
        suffix = str(number + 1) if number else ""
        left, right = layout[f"xaxis{suffix}"].domain
        bottom, top = layout[f"yaxis{suffix}"].domain
        outermost = "block" if layout[f"yaxis{suffix}"].showticklabels else "none"
        all_of_it = f"(100% - {margin.l + margin.r}px)"
        rules.append(
            f".es-still-{number}{{left:calc({margin.l}px + {left:.4f}*{all_of_it});"
            f"width:calc({right - left:.4f}*{all_of_it});"
            f"top:{margin.t + (1 - top) * inner:.1f}px;height:{(top - bottom) * inner:.1f}px}}"
            f".es-still-{number} :is(.es-still-y,.es-still-up){{display:{outermost}}}"
        )
    legend_top = (1 - layout.legend.y) * layout.height
    rules.append(f".es-still-legend{{top:{legend_top:.0f}px}}")
    return "".join(rules)
