"""Panels side by side with shared axes, arranged for wide pages, for narrow ones, and for phones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dashboard.charts.chart import Chart, Traces
from dashboard.charts.palette import Palette
from dashboard.charts.text import FONT

_TOP, _BOTTOM, _LEFT, _RIGHT = 78, 54, 66, 16
_MODE_BAR = 32  # on narrow pages the legend stands below it
# A row's height, and what surely fits into one; wide pages have one row in any case.
_LEGEND_ROW, _LEGEND_WIDTHS = 28, (None, 340, 240)
_TITLE = 38  # above each row of panels but the first, whose titles stand in the top margin


@dataclass(frozen=True)
class Along:
    """What panels run along.

    Attributes:
        title: below each panel.
        hover: what the hover says of a place.
        ticks: places that have a tick, with its text; where plotly likes them by default.
    """

    title: str
    hover: str
    ticks: tuple[tuple[float, str], ...] = ()


EDITS = Along("edits", "after %{x:,d} edits")


@dataclass(frozen=True)
class _Up:
    """What panels have upwards, and which labels are left out, see `Panels.finished`."""

    title: str
    shared: bool
    log: bool
    hundred: Sequence[int]
    outer_labels: bool


class Panels:
    """Panels side by side, in rows; which panel has which axes does not depend on how many stand in a row."""

    def __init__(self, titles: Sequence[tuple[str, str]], colours: Palette, height: int, along: Along = EDITS):
        self.titles, self.colours, self.height = list(titles), colours, height  # titles for wide pages and for narrow
        self.along = along
        self.traces = Traces()

    def axes(self, number: int) -> dict[str, str]:
        suffix = str(number + 1) if number else ""
        return {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}

    def scatter(self, number: int, **trace: Any) -> None:
        """Draw a scatter trace in a panel; what it is made of, as plotly has it."""
        self.traces.scatter(**trace, **self.axes(number))

    def bar(self, number: int, **trace: Any) -> None:
        """Draw a bar trace in a panel."""
        self.traces.bar(**trace, **self.axes(number))

    def mark(self, number: int, at: int | None, values: pd.Series) -> None:
        """A vertical line over the range of some values, as a trace: it takes no part in the legend or the hover."""
        finite = values[values.abs() < float("inf")].dropna()
        if at is None or finite.empty:
            return
        low, high = finite.min(), finite.max()
        self.scatter(
            number,
            x=[at, at],
            y=[low, high if high > low else low * 1.0001],
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
            line={"color": self.colours.ink, "width": 1.5, "dash": "dot"},
        )

    def finished(
        self,
        y_title: str,
        *,
        shared_y: bool,
        columns: tuple[int, int],
        log: bool = False,
        hundred: Sequence[int] = (),
        outer_labels: bool = False,
        more: Mapping[str, object] | None = None,
        x_axes: Mapping[str, object] | None = None,
        y_axes: Mapping[str, object] | None = None,
    ) -> Chart:
        """The figure, with at most `columns[0]` panels a row, a layout with at most `columns[1]`, and one with one.

        Axes of the panels in `hundred` go from 0 to 100. With `outer_labels` what is along an axis is written once for
        panels below each other and, of those, for panels beside each other: every text takes its time to be drawn.
        `more` is for the layout in the end, `x_axes` and `y_axes` for each of its axes.
        """
        layouts: list[dict[str, Any]] = []
        up = _Up(y_title, shared_y, log, hundred, outer_labels)
        for most, legend_width in zip((*columns, 1), _LEGEND_WIDTHS, strict=True):
            n_rows = -(-len(self.titles) // most)
            # Four panels in two rows stand as two and two, not as three and one.
            n_columns = -(-len(self.titles) // n_rows)
            layout = self._layout(n_columns, legend_width, up)
            for number in range(len(self.titles)):
                layout[f"xaxis{number + 1 if number else ''}"] |= x_axes or {}
                layout[f"yaxis{number + 1 if number else ''}"] |= y_axes or {}
            layouts.append(layout | (more or {}))
        return Chart(self.traces, *layouts)

    def _legend_rows(self, width: int) -> int:
        """How many rows of a width the legend needs, at most."""
        widths = [48 + 8 * len(trace.get("name", "")) for trace in self.traces if trace.get("showlegend")]
        return -(-sum(widths) // width)

    def _layout(self, n_columns: int, legend_width: int | None, up: _Up) -> dict:
        colours, n, narrow = self.colours, len(self.titles), legend_width is not None
        n_rows = -(-n // n_columns)
        between = _TITLE + (8 if up.outer_labels else _BOTTOM - 18)
        inner = n_rows * self.height + (n_rows - 1) * between
        top_margin = _MODE_BAR + _TITLE + self._legend_rows(legend_width) * _LEGEND_ROW if narrow else _TOP
        height = inner + top_margin + _BOTTOM
        gap_x = 0.0 if n_columns == 1 else (0.03 if up.shared else 0.05) + 0.04 * (n_columns < 4)
        gap_y = 0.0 if n_rows == 1 else between / inner
        width, tall = (1 - gap_x * (n_columns - 1)) / n_columns, (1 - gap_y * (n_rows - 1)) / n_rows
        layout: dict = {
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
                "title": {"text": self.along.title, "font": {"color": colours.muted, "size": 12}, "standoff": 4},
                "hoverformat": ",d",
                "tickformat": ",d",
                "unifiedhovertitle": {"text": self.along.hover},
            }
            layout[f"yaxis{suffix}"] = {
                "domain": [max(0.0, top - tall), top],
                "anchor": f"x{suffix}",
                "gridcolor": colours.line,
                "zeroline": False,
                "nticks": 6,
                "tickformat": ",~g",
                "tickfont": {"color": colours.muted, "size": 12},
                "ticks": "",
                "showticklabels": outermost or not up.shared,
                "automargin": False,
            }
            if up.outer_labels and number + n_columns < n:
                layout[f"xaxis{suffix}"] |= {"showticklabels": False, "title": {"text": ""}}
            if up.outer_labels and column and {number - 1, number} <= set(up.hundred):
                layout[f"yaxis{suffix}"]["showticklabels"] = False
            if self.along.ticks:
                places, texts = zip(*self.along.ticks, strict=True)
                layout[f"xaxis{suffix}"] |= {"tickvals": places, "ticktext": texts, "tickangle": 0}
            if number:
                layout[f"xaxis{suffix}"]["matches"] = "x"
            if up.shared:
                layout[f"yaxis{suffix}"] |= {"type": "log" if up.log else "linear"} | (
                    {"matches": "y"} if number else {}
                )
                if outermost and up.title:
                    layout[f"yaxis{suffix}"]["title"] = {
                        "text": up.title,
                        "font": {"color": colours.muted, "size": 13},
                        "standoff": 6,
                    }
            if number in up.hundred:
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
