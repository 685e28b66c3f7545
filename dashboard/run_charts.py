"""Figures of runs from data frames: norms by layer, scores over edits. Knows neither streamlit nor torch.

Every figure comes in two arrangements of the same traces, for wide pages and for narrow ones: `Chart.narrow` is the
layout that `dashboard.figure` takes when there is little room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from dashboard.charts import FONT, label
from dashboard.palette import DASHES, Palette

SCALES = ("ratio", "linear", "log")
SYMBOLS = ("circle", "square", "diamond", "triangle-up")
MARKED_POINTS = 40
"""Lines of at most so many points have a mark on each."""

_TOP, _BOTTOM, _LEFT, _RIGHT = 78, 54, 66, 16
_MODE_BAR = 32  # on narrow pages the legend stands below it
_LEGEND_ROW, _LEGEND_WIDTH = 22, 340  # a row's height, and what surely fits into one
_NARROW_NAME = 22  # characters of a name above half a narrow page
_TITLE = 38  # above each row of panels but the first, whose titles stand in the top margin


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


@dataclass(frozen=True)
class Chart:
    """A figure, and its layout for narrow pages; the traces are the same."""

    figure: go.Figure
    narrow: go.Layout


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
    panels = _Panels(
        [(_title(line, colours, 34), _title(line, colours, _NARROW_NAME)) for line in lines], colours, height
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
            part = by_layer[layer]
            is_edited = layer in line.layers
            group = layer if is_edited else "others"
            panels.figure.add_scatter(
                x=part["edits"],
                y=part[value],
                **panels.axes(number),
                **_marked(part, is_edited),
                name=f"layer {layer}" if is_edited else "other layers",
                legendgroup=str(group),
                legendrank=1000 + layer,
                showlegend=group not in legend,
                line={"color": ramp[layer] if is_edited else colours.line, "width": 2.5 if is_edited else 1.2},
                marker={"size": 6},
                hovertemplate=f"layer {layer}  %{{y:.4~g}}<extra></extra>" if is_edited else None,
                hoverinfo=None if is_edited else "skip",
            )
            legend.add(group)
        if scale == "ratio" and len(of_run):
            # A trace, because a line of the layout would blow the range of a logarithmic axis.
            span = [of_run["edits"].min(), max(of_run["edits"].max(), 1)]
            panels.figure.add_scatter(
                x=span,
                y=[1, 1],
                **panels.axes(number),
                mode="lines",
                name="as loaded",
                legendgroup="loaded",
                legendrank=3000,
                showlegend="loaded" not in legend,
                hoverinfo="skip",
                line={"color": colours.muted, "width": 1.2, "dash": "dot"},
            )
            legend.add("loaded")
        drawn.append(of_run[of_run["layer"].isin(shown)][value])
    # As tall in every panel: they share their axis.
    values = pd.concat(drawn) if drawn else pd.Series(dtype=float)
    for number, of_run in enumerate(drawn):
        if len(of_run):
            panels.mark(number, at, values)
    name = "‖W‖ / ‖W₀‖" if scale == "ratio" else "‖W‖, logarithmic" if scale == "log" else "‖W‖"
    return panels.finished(name, shared_y=True, log=scale == "log", columns=(4, 2))


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
    panels = _Panels([(f"<b>{title}</b>",) * 2 for title in titles.values()], colours, height)
    own: list[int] = []
    for number, metric in enumerate(titles):
        of_metric = frame[frame["metric"] == metric]
        is_score = metric not in ("perplexity", "generation_entropy", "norm_ratio")
        own += [] if is_score else [number]
        for line in lines:
            part = of_metric[of_metric["run"] == line.run]
            shown = number == 0 and len(lines) > 1
            colour = colours.method(line.method)
            panels.figure.add_scatter(
                x=part["edits"],
                y=part["value"],
                **panels.axes(number),
                **_marked(part, True),
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
    return panels.finished("", shared_y=False, columns=(4, 2), hundred=[n for n in range(len(titles)) if n not in own])


def _title(line: Line, colours: Palette, width: int) -> str:
    return f'<span style="color:{colours.method(line.method)}"><b>{label(line.name, width)}</b></span>'


def _marked(part: pd.DataFrame, is_edited: bool) -> dict[str, str]:
    few = is_edited and len(part) <= MARKED_POINTS
    return {"mode": "lines+markers" if few else "lines"}


class _Panels:
    """Panels side by side, in rows; which panel has which axes does not depend on how many stand in a row."""

    def __init__(self, titles: Sequence[tuple[str, str]], colours: Palette, height: int):
        self.titles, self.colours, self.height = list(titles), colours, height  # titles for wide pages and for narrow
        self.figure = go.Figure()

    def axes(self, number: int) -> dict[str, str]:
        suffix = str(number + 1) if number else ""
        return {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}

    def mark(self, number: int, at: int | None, values: pd.Series) -> None:
        """A vertical line over the range of some values, as a trace: it takes no part in the legend or the hover."""
        finite = values[values.abs() < float("inf")].dropna()
        if at is None or finite.empty:
            return
        low, high = finite.min(), finite.max()
        self.figure.add_scatter(
            x=[at, at],
            y=[low, high if high > low else low * 1.0001],
            **self.axes(number),
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
            line={"color": self.colours.ink, "width": 1.5, "dash": "dot"},
        )

    def finished(
        self, y_title: str, *, shared_y: bool, columns: tuple[int, int], log: bool = False, hundred: Sequence[int] = ()
    ) -> Chart:
        """The figure, with at most `columns[0]` panels a row, and the layout with at most `columns[1]`."""
        layouts = []
        for most, narrow in zip(columns, (False, True), strict=True):
            n_rows = -(-len(self.titles) // most)
            # Four panels in two rows stand as two and two, not as three and one.
            layouts.append(self._layout(-(-len(self.titles) // n_rows), narrow, y_title, shared_y, log, hundred))
        self.figure.update_layout(layouts[0])
        return Chart(self.figure, go.Layout(layouts[1]))

    def _legend_rows(self) -> int:
        """How many rows the legend needs on a narrow page, at most."""
        widths = [48 + 8 * len(trace.name or "") for trace in self.figure.data if trace.showlegend]
        return -(-sum(widths) // _LEGEND_WIDTH)

    def _layout(
        self, n_columns: int, narrow: bool, y_title: str, shared_y: bool, log: bool, hundred: Sequence[int]
    ) -> dict:
        colours, n = self.colours, len(self.titles)
        n_rows = -(-n // n_columns)
        inner = n_rows * self.height + (n_rows - 1) * (_TITLE + _BOTTOM - 18)
        top_margin = _MODE_BAR + _TITLE + self._legend_rows() * _LEGEND_ROW if narrow else _TOP
        height = inner + top_margin + _BOTTOM
        gap_x = 0.0 if n_columns == 1 else (0.03 if shared_y else 0.05) + 0.02 * (n_columns < 4)
        gap_y = 0.0 if n_rows == 1 else (_TITLE + _BOTTOM - 18) / inner
        width, tall = (1 - gap_x * (n_columns - 1)) / n_columns, (1 - gap_y * (n_rows - 1)) / n_rows
        layout: dict = {
            # Explicit: Streamlit's default template has placeholder colours, which an exported figure would keep.
            "template": "none",
            "height": height,
            "margin": {"l": _LEFT, "r": _RIGHT, "t": top_margin, "b": _BOTTOM},
            "paper_bgcolor": colours.page,
            "plot_bgcolor": colours.page,
            "font": {"family": FONT, "size": 14, "color": colours.ink},
            "hovermode": "x unified",
            "hoverlabel": {
                "font": {"family": FONT, "size": 13, "color": colours.ink},
                "bgcolor": colours.panel,
                "bordercolor": colours.line,
            },
            "dragmode": "zoom",
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": colours.muted, "activecolor": colours.ink},
            "legend": {
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "y": 1 - (_MODE_BAR / height if narrow else 0),
                "yanchor": "top",
                "yref": "container",
                "font": {"size": 13},
                "itemsizing": "constant",
                "bgcolor": "rgba(0,0,0,0)",
            },
            "annotations": [],
        }
        for number, title in enumerate(titles[narrow] for titles in self.titles):
            row, column = divmod(number, n_columns)
            left, top = column * (width + gap_x), 1 - row * (tall + gap_y)
            suffix = str(number + 1) if number else ""
            outermost = column == 0
            layout[f"xaxis{suffix}"] = {
                "domain": [left, min(1.0, left + width)],
                "anchor": f"y{suffix}",
                "gridcolor": colours.line,
                "zeroline": False,
                "nticks": 5,
                "rangemode": "tozero",
                "tickfont": {"color": colours.muted, "size": 12},
                "automargin": False,
                "ticks": "",
                "title": {"text": "edits", "font": {"color": colours.muted, "size": 12}, "standoff": 4},
                "hoverformat": ",d",
                "tickformat": ",d",
                "unifiedhovertitle": {"text": "after %{x:,d} edits"},
            }
            layout[f"yaxis{suffix}"] = {
                "domain": [max(0.0, top - tall), top],
                "anchor": f"x{suffix}",
                "gridcolor": colours.line,
                "zeroline": False,
                "nticks": 6,
                "tickfont": {"color": colours.muted, "size": 12},
                "ticks": "",
                "showticklabels": outermost or not shared_y,
                "automargin": False,
            }
            if number:
                layout[f"xaxis{suffix}"]["matches"] = "x"
            if shared_y:
                layout[f"yaxis{suffix}"] |= {"type": "log" if log else "linear"} | ({"matches": "y"} if number else {})
                if outermost and y_title:
                    layout[f"yaxis{suffix}"]["title"] = {
                        "text": y_title,
                        "font": {"color": colours.muted, "size": 13},
                        "standoff": 6,
                    }
            if number in hundred:
                layout[f"yaxis{suffix}"] |= {"range": [-4, 104], "tickvals": [0, 25, 50, 75, 100]}
            layout["annotations"].append(
                {
                    "text": title,
                    "x": left,
                    "xref": "paper",
                    "xanchor": "left",
                    "y": top,
                    "yref": "paper",
                    "yanchor": "bottom",
                    "yshift": 9,
                    "showarrow": False,
                    "align": "left",
                    "font": {"size": 15},
                }
            )
        return layout
