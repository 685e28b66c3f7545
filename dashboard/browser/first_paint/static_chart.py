"""A chart of lines as plain markup, for a browser that has loaded no script yet.

Panels are where Plotly will put them, by the layouts of the chart: wide, narrow, or for phones, depending on the
container's width. Lines are drawn in a box of 1,000 by 1,000 that is stretched over its panel; strokes and dots keep
their form. Colours come as CSS variables, so that one text serves light and dark pages.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from dashboard.charts.chart import Chart

BOX = 1000
_BORDERS = {"dot": "dotted", "dash": "dashed"}
"""Plotly's name of a dash → the one in the legend."""
_AROUND = 0.05
"""Room around lines, in shares of an axis, and around their dots in pixels, as Plotly leaves it."""
_DOT_ROOM = 1.6 / 2
_TYPICAL_WIDTH = 230
"""Width of a panel in pixels; only the room beside the last dots depends on it."""
_DASHES = {
    "solid": "", "dot": "2 3", "dash": "7 5", "dashdot": "7 5 2 5", "longdash": "12 5", "longdashdot": "12 5 2 5",
}  # fmt: skip
"""Plotly's name of a dash → the stroke's; others are lengths in pixels."""


def markup(chart: Chart, titles: Sequence[str], colours: Sequence[str], narrow: int, slim: int) -> str:
    """The chart.

    Args:
        chart: from `dashboard.charts`; its traces are lines, and its panels share their horizontal axis.
        titles: markup above each panel.
        colours: a CSS colour for each trace.
        narrow, slim: containers narrower than this many pixels use the narrow layout, and the one for phones.

    Returns:
        markup with its own style sheet; it is as wide as its container.
    """
    figure = chart.figure
    # The bands of intervals are left to Plotly.
    lines = [(trace, colour) for trace, colour in zip(figure.data, colours, strict=True) if not trace.fill]
    panels = sorted({_number(trace.xaxis) for trace, _ in lines})
    x_range = _x_range(figure, [trace for trace, _ in lines])
    x_ticks = ticks(*x_range, most=figure.layout.xaxis.nticks)
    parts = []
    for number in panels:
        traces = [(trace, colour) for trace, colour in lines if _number(trace.xaxis) == number]
        up = _Up.of(figure, number, [trace for trace, _ in lines])
        drawn = "".join(_line(trace, colour, x_range, up) for trace, colour in traces)
        labels = "".join(_x_label(tick, x_range) for tick in x_ticks) + "".join(
            f'<b class="es-still-y" style="top:{up.down(tick) / BOX:.2%}">{html.escape(text)}</b>'
            for tick, text in up.ticks
        )
        parts.append(
            f'<div class="es-still-panel es-still-{number}"><div class="es-still-title">{titles[number]}</div>'
            f'<svg viewBox="0 0 {BOX} {BOX}" preserveAspectRatio="none" aria-hidden="true">'
            f"{_grid(x_ticks, x_range, up)}{drawn}</svg>"
            f'{labels}<i class="es-still-along">{figure.layout.xaxis.title.text}</i>'
            f'<i class="es-still-up">{_axis(figure.layout, number).title.text or ""}</i></div>'
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


def _axis(layout: go.Layout, number: int) -> go.layout.YAxis:
    """The vertical axis of a panel."""
    return layout[f"yaxis{number + 1 if number else ''}"]


def _dot_size(traces: Sequence[go.Scatter]) -> float:
    """The room that the largest dot needs, in pixels."""
    return max((trace.marker.size for trace in traces if "markers" in (trace.mode or "")), default=0) * _DOT_ROOM


def _x_range(figure: go.Figure, traces: Sequence[go.Scatter]) -> tuple[float, float]:
    """The range of the horizontal axes: from 0 as far as the lines go and their dots need."""
    x = np.concatenate([np.asarray(trace.x, dtype=float) for trace in traces])
    dot = _dot_size(traces)
    # Lines without dots go to the end of the axis.
    return 0.0, max(float(np.nanmax(x)), 1.0) / (1 - _AROUND - dot / _TYPICAL_WIDTH if dot else 1)


@dataclass(frozen=True)
class _Up:
    """A panel's vertical axis: its range, which is one of powers of ten where it is logarithmic, and its ticks."""

    span: tuple[float, float]
    is_log: bool
    ticks: Sequence[tuple[float, str]]

    @classmethod
    def of(cls, figure: go.Figure, number: int, traces: Sequence[go.Scatter]) -> _Up:
        """The axis as the layout has it; without a range of its own it goes as far as its lines, or as all of those
        that share it, and their dots need.
        """
        axis = _axis(figure.layout, number)
        is_log = axis.type == "log"
        shares = _axis(figure.layout, 1).matches if len({_number(trace.xaxis) for trace in traces}) > 1 else None
        own = [trace for trace in traces if shares or _number(trace.xaxis) == number]
        if axis.range is None:
            y = np.concatenate([np.asarray(trace.y, dtype=float) for trace in own])
            y = np.log10(y[y > 0]) if is_log else y
            low, high = float(np.nanmin(y)), float(np.nanmax(y))
            height = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
            room = _AROUND + _dot_size(own) / height
            around = ((high - low) or 1.0) * room / (1 - 2 * room)
            span = low - around, high + around
        else:
            span = float(axis.range[0]), float(axis.range[1])
        if axis.tickvals is None:
            found = [(tick, f"{tick:,.6g}") for tick in ticks(*span, most=axis.nticks)]
            return cls(span, is_log, [(10**tick, text) for tick, text in found] if is_log else found)
        texts = axis.ticktext or [f"{tick:,.6g}" for tick in axis.tickvals]
        placed = [(float(tick), str(text)) for tick, text in zip(axis.tickvals, texts, strict=True)]
        up = cls(span, is_log, ())
        return cls(span, is_log, [(tick, text) for tick, text in placed if 0 <= up.down(tick) <= BOX])

    def down(self, value: float) -> float:
        """Where a value is, from the top of the box; NaN where a logarithmic axis has no place for it."""
        if self.is_log:
            value = math.log10(value) if value > 0 else math.nan
        return _down(value, self.span)


def _across(value: float, span: tuple[float, float]) -> float:
    return BOX * (value - span[0]) / (span[1] - span[0])


def _down(value: float, span: tuple[float, float]) -> float:
    return BOX - _across(value, span)


def _line(trace: go.Scatter, colour: str, x_range: tuple[float, float], up: _Up) -> str:
    """A trace's line, broken where a value is missing, and its dots: lines without length, whose ends are round."""
    points = [(_across(float(x), x_range), up.down(float(y))) for x, y in zip(trace.x, trace.y, strict=True)]
    dashes = _DASHES.get(trace.line.dash or "solid", (trace.line.dash or "").replace("px", "").replace(",", " "))
    dash = f' stroke-dasharray="{dashes}"' if dashes else ""
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


def _grid(x_ticks: Sequence[float], x_range: tuple[float, float], up: _Up) -> str:
    drawn = [f"M{_across(tick, x_range):.1f} 0v{BOX}" for tick in x_ticks]
    drawn += [f"M0 {up.down(tick):.1f}h{BOX}" for tick, _ in up.ticks]
    return f'<path class="es-still-grid" d="{"".join(drawn)}"/>'


def _x_label(tick: float, span: tuple[float, float]) -> str:
    return f'<b class="es-still-x" style="left:{_across(tick, span) / BOX:.2%}">{tick:,.0f}</b>'


def _legend(figure: go.Figure, colours: Sequence[str]) -> str:
    named = [
        f'<span><i style="border-top-style:{_BORDERS.get(trace.line.dash, "solid")};color:{colour}"></i>'
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
