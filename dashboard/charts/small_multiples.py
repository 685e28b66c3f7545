"""Runs side by side over edits: a row per measure with one axis for all, a column per run in its method's colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from dashboard.charts.chart import Chart
from dashboard.charts.palette import DASHES, Palette
from dashboard.charts.panels import Panels
from dashboard.charts.runs import (
    LEAST_RATIOS,
    MARKED_POINTS,
    RATIO,
    Line,
    draw_band,
    hovers,
    panel_title,
    ratio_axis,
    with_gaps,
)

HEIGHT = 84
"""Of a row, in pixels."""

TITLE_ROOM = 26
LEAST_GROWTH = (0.98, 1.1)
"""The range of an axis of ‖W‖ / ‖W₀‖ goes at least from here to there."""


@dataclass(frozen=True)
class Row:
    """A row of panels.

    Attributes:
        metric: as in the frame.
        title: on its axis, with its unit.
        is_score: whether it goes from 0 to 100.
        digits: after the decimal point, in the hover.
    """

    metric: str
    title: str
    is_score: bool = True
    digits: int = 0


def grid(
    frame: pd.DataFrame,
    lines: Sequence[Line],
    rows: Sequence[Row],
    colours: Palette,
    *,
    at: int | None = None,
    limits: Mapping[tuple[str, str], float] | None = None,
) -> Chart:
    """The small multiples.

    Args:
        frame: columns run, edits, metric, value; low and high where a line has a band, its 95 % interval.
        lines: the runs, a column each.
        rows: from the top.
        colours: the theme's.
        at: edits marked by a vertical line.
        limits: (metric, run) → value that is not to be reached, drawn as a line across.
    """
    panels = Panels([(panel_title(line, colours, 34), panel_title(line, colours, 16)) for _ in rows for line in lines],
                    colours, HEIGHT, title_room=TITLE_ROOM)  # fmt: skip
    last = max(1, int(frame["edits"].max())) if len(frame) else 1
    ranges = []
    for place, row in enumerate(rows):
        of_row = frame[frame["metric"] == row.metric]
        ranges.append(_range(row, of_row["value"]))
        for column, line in enumerate(lines):
            number = place * len(lines) + column
            _draw(panels, number, of_row[of_row["run"] == line.run], line, row)
            limit = (limits or {}).get((row.metric, line.run))
            if limit is not None:
                _across(panels, number, limit, last)
            panels.mark(number, at, pd.Series(ranges[-1].ends))
    # Three narrow columns are better than two and one; four are two and two.
    n = len(lines)
    columns = (n, n if n < 4 else 2, n if n < 4 else 2)
    chart = panels.finished("", shared_y=True, columns=columns[:2], slim=columns[2], outer_labels=True)
    for layout, n_columns in zip(chart.layouts, columns, strict=True):
        _make_rows(layout, rows, ranges, n, n_columns, colours)
    return chart


@dataclass(frozen=True)
class _Range:
    """What a row's axis shows: its ends, and whether it is logarithmic."""

    ends: tuple[float, float]
    is_log: bool = False


def _range(row: Row, values: pd.Series) -> _Range:
    finite = values[values.abs() < float("inf")].dropna()
    if row.is_score:
        return _Range((-4.0, 104.0))
    if row.metric == RATIO:
        positive = finite[finite > 0]
        low, high = (positive.min() / 1.1, positive.max() * 1.1) if len(positive) else LEAST_RATIOS
        return _Range((min(low, LEAST_RATIOS[0]), max(high, LEAST_RATIOS[1])), is_log=True)
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else LEAST_GROWTH
    room = 0.06 * (high - low)
    return _Range((min(low - room, LEAST_GROWTH[0]), max(high + room, LEAST_GROWTH[1])))


def _draw(panels: Panels, number: int, part: pd.DataFrame, line: Line, row: Row) -> None:
    """A run's line with its band."""
    colour = panels.colours.method(line.method)
    draw_band(panels, number, part, line.run, colour)
    part = with_gaps(part)
    panels.scatter(
        number,
        x=part["edits"],
        y=part["value"],
        mode="lines+markers" if len(part) <= MARKED_POINTS else "lines",
        cliponaxis=False,
        name=row.title,
        showlegend=False,
        line={"color": colour, "width": 2.5, "dash": DASHES.get(line.method, "solid")},
        marker={"size": 5, "color": colour},
        customdata=hovers(part, row.digits),
        hovertemplate=f"{row.title}  %{{customdata}}<extra></extra>",
    )


def _across(panels: Panels, number: int, value: float, last: int) -> None:
    """The reader's line."""
    panels.scatter(
        number,
        x=[0, last],
        y=[value, value],
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        line={"color": panels.colours.bad, "width": 1.5, "dash": "dash"},
    )


def _make_rows(
    layout: dict, rows: Sequence[Row], ranges: Sequence[_Range], n_runs: int, n_columns: int, colours: Palette
) -> None:
    """One axis for all panels of a measure, named beside the first of them; and titles that are small enough."""
    for number in range(len(rows) * n_runs):
        place = number // n_runs
        row, shown = rows[place], ranges[place]
        axis = layout[f"yaxis{number + 1 if number else ''}"]
        axis.pop("matches", None)
        first = place * n_runs
        if number != first:
            axis["matches"] = f"y{first + 1 if first else ''}"
        is_left = number % n_columns == 0
        axis |= {"showticklabels": is_left, "type": "linear", "range": list(shown.ends), "nticks": 4}
        if row.is_score:
            axis |= {"tickvals": [0, 50, 100]}
        elif shown.is_log:
            axis |= ratio_axis(*shown.ends)
        if is_left:
            axis["title"] = {"text": row.title, "font": {"color": colours.muted, "size": 12}, "standoff": 4}
    for note in layout["annotations"]:
        note |= {"yshift": 3, "font": {"size": 13}}
