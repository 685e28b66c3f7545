"""Panels side by side with shared axes, arranged for wide pages, for narrow ones, and for phones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dashboard.charts.chart import Chart, Traces
from dashboard.charts.labels import FONT
from dashboard.charts.palette import Palette

_TOP, _BOTTOM, _LEFT, _RIGHT = 78, 54, 66, 20
# Plotly would measure every tick's label to leave out those that leave the chart, a sixth of the time of drawing many
# panels; the margins have room for half of the widest.
_FITS = "allow"
_MODE_BAR = 32  # on narrow pages the legend is below it
# A row's height, and a width that surely fits into one; wide pages always have one row.
_LEGEND_ROW, _LEGEND_WIDTHS = 28, (None, 340, 240)
_TALL = 180  # pixels of a panel
_TITLE = 38  # above each row of panels but the first, whose titles are in the top margin


@dataclass(frozen=True)
class Along:
    """The horizontal axis of panels.

    Attributes:
        title: below each panel.
        hover: the hover's text for a place.
        ticks: places of ticks, with their texts; plotly chooses them by default.
    """

    title: str
    hover: str
    ticks: tuple[tuple[float, str], ...] = ()


OF_A_HUNDRED = "score × 100"
"""The unit of panels from 0 to 100."""

EDITS = Along("edits", "after %{x:,d} edits")


@dataclass(frozen=True)
class _Up:
    """The vertical axis of panels, and which labels are left out; see `Panels.finished`."""

    title: str
    shared: bool
    log: bool
    hundred: Sequence[int]
    outer_labels: bool


@dataclass(frozen=True)
class _Grid:
    """Where panels are, in shares of the room for all: rows and columns, and the gaps between them."""

    n_columns: int
    n_rows: int
    gap_x: float
    gap_y: float

    @property
    def width(self) -> float:
        return (1 - self.gap_x * (self.n_columns - 1)) / self.n_columns

    @property
    def tall(self) -> float:
        return (1 - self.gap_y * (self.n_rows - 1)) / self.n_rows

    def corner(self, number: int) -> tuple[float, float]:
        """The left and the top of a panel."""
        row, column = divmod(number, self.n_columns)
        return column * (self.width + self.gap_x), 1 - row * (self.tall + self.gap_y)


class Panels:
    """Panels side by side, in rows; which axes a panel has does not depend on how many are in a row."""

    def __init__(
        self,
        titles: Sequence[tuple[str, str]],
        colours: Palette,
        height: int,
        along: Along = EDITS,
        title_room: int = _TITLE,
    ):
        self.titles, self.colours, self.height = list(titles), colours, height  # titles for wide pages and for narrow
        self.along, self.title_room = along, title_room  # the latter in pixels, above each row but the first
        self.traces = Traces()

    def axes(self, number: int) -> dict[str, str]:
        suffix = str(number + 1) if number else ""
        return {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}

    def scatter(self, number: int, **trace: Any) -> None:
        """Draw a scatter trace in a panel, given in plotly's terms."""
        self.traces.scatter(**trace, **self.axes(number))

    def bar(self, number: int, **trace: Any) -> None:
        """Draw a bar trace in a panel."""
        self.traces.bar(**trace, **self.axes(number))

    def mark(self, number: int, at: int | None, values: pd.Series) -> None:
        """A vertical line over the range of some values, as a trace that is in neither the legend nor the hover."""
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
        slim: int = 1,
        log: bool = False,
        hundred: Sequence[int] = (),
        outer_labels: bool = False,
        more: Mapping[str, object] | None = None,
        x_axes: Mapping[str, object] | None = None,
        y_axes: Mapping[str, object] | None = None,
    ) -> Chart:
        """The figure, with at most `columns[0]` panels per row, a layout with at most `columns[1]`, one with `slim`.

        Axes of the panels in `hundred` go from 0 to 100. With `outer_labels`, an axis is labelled once for panels below
        each other, and those from 0 to 100 once for panels beside each other: every text takes time to draw.
        `more` is added to the finished layout, `x_axes` and `y_axes` for each of its axes.
        """
        layouts: list[dict[str, Any]] = []
        up = _Up(y_title, shared_y, log, hundred, outer_labels)
        for most, legend_width in zip((*columns, slim), _LEGEND_WIDTHS, strict=True):
            n_rows = -(-len(self.titles) // most)
            # Four panels in two rows are two and two, not three and one.
            n_columns = -(-len(self.titles) // n_rows)
            layout = self._layout(n_columns, legend_width, up)
            for number in range(len(self.titles)):
                layout[f"xaxis{number + 1 if number else ''}"] |= x_axes or {}
                layout[f"yaxis{number + 1 if number else ''}"] |= y_axes or {}
            layouts.append(layout | (more or {}))
        return Chart(self.traces, *layouts)

    def _legend_rows(self, width: int) -> int:
        """How many rows of a width the legend needs, at most: if one is too short, the entries stand in columns."""
        widths = [48 + 8 * len(trace.get("name", "")) for trace in self.traces if trace.get("showlegend")]
        if sum(widths) <= width:
            return min(1, len(widths))
        return -(-len(widths) // max(1, width // max(widths)))

    def _layout(self, n_columns: int, legend_width: int | None, up: _Up) -> dict:
        narrow = legend_width is not None
        n_rows = -(-len(self.titles) // n_columns)
        between = self.title_room + (8 if up.outer_labels else _BOTTOM - 18)
        inner = n_rows * self.height + (n_rows - 1) * between
        top_margin = _MODE_BAR + _TITLE + self._legend_rows(legend_width) * _LEGEND_ROW if narrow else _TOP
        gap_x = 0.0 if n_columns == 1 else (0.03 if up.shared else 0.05) + 0.04 * (n_columns < 4)
        gap_y = 0.0 if n_rows == 1 else between / inner
        grid = _Grid(n_columns, n_rows, gap_x, gap_y)
        layout = self._frame(inner + top_margin + _BOTTOM, top_margin, narrow)
        for number, titles in enumerate(self.titles):
            suffix = str(number + 1) if number else ""
            layout[f"xaxis{suffix}"] = self._x_axis(number, grid, up)
            layout[f"yaxis{suffix}"] = self._y_axis(number, grid, up)
            layout["annotations"].append(_title(titles[narrow], *grid.corner(number)))
        return layout

    def _frame(self, height: int, top_margin: int, narrow: bool) -> dict:
        """A layout of a height without its panels."""
        colours = self.colours
        return {
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

    def _x_axis(self, number: int, grid: _Grid, up: _Up) -> dict:
        """The horizontal axis of a panel."""
        left, _ = grid.corner(number)
        colours = self.colours
        axis = {
            "domain": [left, min(1.0, left + grid.width)],
            "anchor": f"y{number + 1 if number else ''}",
            "gridcolor": colours.line,
            "zeroline": False,
            "nticks": 5,
            "rangemode": "tozero",
            "tickfont": {"color": colours.muted, "size": 12},
            "ticklabeloverflow": _FITS,
            "automargin": False,
            "ticks": "",
            "title": {"text": self.along.title, "font": {"color": colours.muted, "size": 12}, "standoff": 4},
            "hoverformat": ",d",
            "tickformat": ",d",
            "unifiedhovertitle": {"text": self.along.hover},
        }
        if up.outer_labels and number + grid.n_columns < len(self.titles):
            axis |= {"showticklabels": False, "title": {"text": ""}}
        if self.along.ticks:
            places, texts = zip(*self.along.ticks, strict=True)
            axis |= {"tickvals": places, "ticktext": texts, "tickangle": 0}
        if number:
            axis["matches"] = "x"
        return axis

    def _y_axis(self, number: int, grid: _Grid, up: _Up) -> dict:
        """The vertical axis of a panel."""
        _, top = grid.corner(number)
        column = number % grid.n_columns
        colours = self.colours
        axis = {
            "domain": [max(0.0, top - grid.tall), top],
            "anchor": f"x{number + 1 if number else ''}",
            "gridcolor": colours.line,
            "zeroline": False,
            # A tall panel has room for more, without which a range of few round numbers has two.
            "nticks": 8 if self.height >= _TALL else 6,
            "tickformat": ",~g",
            "tickfont": {"color": colours.muted, "size": 12},
            "ticklabeloverflow": _FITS,
            "ticks": "",
            # Clear of the marks at zero edits.
            "ticklabelstandoff": 6,
            "showticklabels": column == 0 or not up.shared,
            "automargin": False,
        }
        if up.outer_labels and column and {number - 1, number} <= set(up.hundred):
            axis["showticklabels"] = False
        if up.shared:
            axis |= {"type": "log" if up.log else "linear"} | ({"matches": "y"} if number else {})
            if column == 0 and up.title:
                axis["title"] = {"text": up.title, "font": {"color": colours.muted, "size": 13}, "standoff": 6}
        if number in up.hundred:
            axis |= {"range": [-4, 104], "tickvals": [0, 25, 50, 75, 100]}
            if axis["showticklabels"] and "title" not in axis:
                axis["title"] = {"text": OF_A_HUNDRED, "font": {"color": colours.muted, "size": 12}, "standoff": 4}
        return axis


def _title(text: str, left: float, top: float) -> dict:
    """The title above the panel with this upper left corner."""
    return {
        "text": text,
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
