"""Heat maps of layers and tokens: a cell per layer and token, the lowest layer at the bottom, edited layers marked.

Cells are bars, because the plotly.js that comes with the program draws bars and lines only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pandas as pd

from dashboard.charts.chart import Chart
from dashboard.charts.labels import label, percent
from dashboard.charts.palette import Palette
from dashboard.charts.panels import Along, Panels

Scale = Literal["probability", "log", "points", "factor"]
"""What the values are, and so how they are coloured: probabilities; probabilities, logarithmic; differences of
probabilities; quotients of probabilities, logarithmic."""

LEAST = 1e-5
"""Smaller probabilities have the colour of this one where the scale is logarithmic."""

TICK_EVERY = 4  # layers
ROW, ROW_WITH_WORDS = 15, 20  # pixels
_BAR_ROOM = 74  # below the tokens, for the scale of colours
_SLANTED_FROM = (14, 8, 5)  # tokens in a row of panels, on wide pages, on narrow ones, and on phones


def heat(
    frame: pd.DataFrame, panels: Sequence[str], colours: Palette, *, scale: Scale, columns: int = 1, marked: str = ""
) -> Chart:
    """A map per panel, beside each other where there is room.

    Args:
        frame: panel (0, 1, …), row (0 at the bottom), row_name, column (0 at the left), token, value, hover (text of
            what the hover says), word (written into the cell where it fits), edited (of the row), subject (of the
            column).
        panels: titles.
        colours: the theme's.
        scale: see `Scale`.
        columns: panels per row; one on phones.
        marked: what the violet mark of a row means.
    """
    rows = frame.drop_duplicates("row").sort_values("row")
    tokens = frame.drop_duplicates("column").sort_values("column")
    ticks = tuple((float(row.column), _token(row.token, row.subject)) for row in tokens.itertuples())
    strip, axis = 0.03 * (len(tokens) + 1), _colour_axis(frame, colours, scale)
    height = (ROW_WITH_WORDS if frame["word"].any() else ROW) * len(rows) + 10
    drawn = Panels([(f"<b>{label(title, 40)}</b>",) * 2 for title in panels], colours, height, Along("", "", ticks))
    for number in range(len(panels)):
        _cells(drawn, number, frame[frame["panel"] == number], axis, colours, scale)
        _marks(drawn, number, rows[rows["edited"]], strip, marked, colours)
    named = [(int(row), name) for row, name in zip(rows["row"], rows["row_name"], strict=True)
             if not name.isdecimal() or int(name) % TICK_EVERY == 0]  # fmt: skip
    chart = drawn.finished(
        "layer",
        shared_y=True,
        columns=(columns, columns),
        more={"hovermode": "closest", "barmode": "overlay", "coloraxis": axis,
              "uniformtext": {"minsize": 10, "mode": "hide"}},
        x_axes={"range": [-0.5 - 2 * strip, len(tokens) - 0.45], "showgrid": False,
                "tickfont": {"color": colours.ink, "size": 13}},
        y_axes={"range": [-0.6, len(rows) - 0.4], "showgrid": False, "tickvals": [at for at, _ in named],
                "ticktext": [name for _, name in named]},
    )  # fmt: skip
    for layout, slanted_from, in_row in zip(chart.layouts, _SLANTED_FROM, (columns, columns, 1), strict=True):
        _make_room(layout, len(panels), in_row * len(tokens) >= slanted_from)
    return chart


def _cells(
    panels: Panels, number: int, part: pd.DataFrame, axis: Mapping[str, Any], colours: Palette, scale: Scale
) -> None:
    shown = part["value"] if scale in ("probability", "points") else part["value"].map(_log)
    panels.bar(
        number,
        x=part["column"],
        base=[row - 0.5 for row in part["row"]],
        y=[1.0] * len(part),
        width=1.0,
        showlegend=False,
        marker={"color": shown, "coloraxis": "coloraxis", "line": {"width": 1, "color": colours.page}},
        text=[label(word, 12) if word else "" for word in part["word"]],
        textposition="inside",
        insidetextanchor="middle",
        insidetextfont={"size": 11, "color": [_on(value, axis, colours) for value in shown]},
        textangle=0,
        constraintext="inside",
        customdata=[
            f"{label(token, 30)}, {where}<br>{label(text, 90)}"
            for token, where, text in zip(part["token"], part["row_name"].map(_where), part["hover"], strict=True)
        ],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _on(value: float, axis: Mapping[str, Any], colours: Palette) -> str:
    """The colour of text on a cell: the page's where the cell's is strong."""
    low, high = axis["cmin"], axis["cmax"]
    is_strong = abs(value) > 0.55 * high if low < 0 < high else value - low > 0.5 * (high - low)
    return colours.page if is_strong else colours.ink


def _marks(panels: Panels, number: int, edited: pd.DataFrame, width: float, name: str, colours: Palette) -> None:
    if edited.empty:
        return
    panels.bar(
        number,
        x=[-0.5 - width] * len(edited),
        base=[row - 0.5 for row in edited["row"]],
        y=[1.0] * len(edited),
        width=width,
        name=name,
        showlegend=number == 0,
        hoverinfo="skip",
        marker={"color": colours.edited, "line": {"width": 0},
                "pattern": {"shape": "/", "fgcolor": colours.page, "fillmode": "overlay", "size": 5, "solidity": 0.35}},
    )  # fmt: skip


def _where(name: str) -> str:
    return f"layer {name}" if name.isdecimal() else "embedding"


def _token(text: str, subject: bool) -> str:
    shown = label(text.replace(" ", "␣") if not text.strip(" ") else text, 11)
    return f"<b>{shown}</b>" if subject else shown


def _log(value: float) -> float:
    return math.log10(max(value, LEAST)) if value == value else math.nan


def _colour_axis(frame: pd.DataFrame, colours: Palette, scale: Scale) -> dict[str, Any]:
    """Colours from the page's to a strong one, or on both sides of it where the values are differences."""
    one_way = [colours.panel, *colours.scale]
    two_ways = [colours.fall, colours.panel, colours.scale[2]]
    if scale == "probability":
        low, high, stops, ticks = 0.0, 1.0, one_way, {share: f"{share:.0%}" for share in (0, 0.25, 0.5, 0.75, 1)}
    elif scale == "log":
        low, high, stops = math.log10(LEAST), 0.0, one_way
        ticks = {power: f"{100 * 10.0**power:g} %" for power in range(-5, 1)}
    elif scale == "points":
        high = max(0.05, float(frame["value"].abs().max()))
        low, stops = -high, two_ways
        ticks = {share * high: f"{100 * share * high:+.0f}" for share in (-1, -0.5, 0, 0.5, 1)}
    else:
        high = max(1.0, math.ceil(float(frame["value"].map(_log).abs().max() or 0)))
        low, stops = -high, two_ways
        ticks = {-high: f"÷ {10**high:,.0f}", 0: "× 1", high: f"× {10**high:,.0f}"}
    return {
        "cmin": low,
        "cmax": high,
        "colorscale": [[place / (len(stops) - 1), stop] for place, stop in enumerate(stops)],
        "colorbar": {
            "orientation": "h", "x": 0, "xanchor": "left", "len": 0.96, "lenmode": "fraction", "thickness": 11,
            "y": 0, "yanchor": "bottom", "yref": "container", "outlinewidth": 0, "ypad": 6, "xpad": 0,
            "tickvals": list(ticks), "ticktext": list(ticks.values()),
            "tickfont": {"color": colours.muted, "size": 12}, "ticklabeloverflow": "allow",
        },
    }  # fmt: skip


def _make_room(layout: dict[str, Any], n_panels: int, slanted: bool) -> None:
    """Below the panels, for slanted tokens and the scale of colours."""
    if slanted:
        for number in range(n_panels):
            layout[f"xaxis{number + 1 if number else ''}"]["tickangle"] = -55
    more = _BAR_ROOM + 34 * slanted - 30
    layout["margin"] = layout["margin"] | {"b": layout["margin"]["b"] + more}
    layout["height"] += more


def last_token(frame: pd.DataFrame, names: Mapping[str, str], colours: Palette, height: int = 250) -> Chart:
    """Probabilities of the answers after each layer, at the prompt's last token; logarithmic.

    Args:
        frame: answer ("new", "true"), moment ("before", "after"), row, row_name, probability, edited.
        names: answer → its text.
        colours: the theme's.
        height: in pixels.
    """
    rows = frame.drop_duplicates("row").sort_values("row")
    ticks = tuple((float(row), name) for row, name in zip(rows["row"], rows["row_name"], strict=True)
                  if not name.isdecimal() or (int(name) and int(name) % TICK_EVERY == 0))  # fmt: skip
    panels = Panels([("<b>At the prompt's last token</b>",) * 2], colours, height, Along("layer", "%{x}", ticks))
    both = frame["moment"].nunique() > 1
    for (answer, moment), part in frame.groupby(["answer", "moment"], sort=False):
        panels.scatter(
            0,
            x=part["row"],
            y=part["probability"].clip(lower=LEAST),
            mode="lines",
            name=label(names[answer], 20) + (f", {moment}" if both else ""),
            showlegend=True,
            line={"color": getattr(colours, answer), "width": 2 if moment == "before" and both else 3,
                  "dash": "dot" if moment == "before" and both else "solid"},
            customdata=[f"{_where(name)}: {percent(value)}"
                        for name, value in zip(part["row_name"], part["probability"], strict=True)],
            hovertemplate="%{customdata}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    edited = rows[rows["edited"]]
    if not edited.empty:
        panels.scatter(
            0, x=edited["row"], y=[LEAST] * len(edited), mode="markers", name="edited layer", hoverinfo="skip",
            showlegend=True,
            cliponaxis=False, marker={"color": colours.edited, "symbol": "diamond", "size": 9},
        )  # fmt: skip
    powers = range(int(math.log10(LEAST)), 1)
    return panels.finished(
        "",
        shared_y=True,
        columns=(1, 1),
        log=True,
        more={"hovermode": "closest"},
        x_axes={"range": [-0.6, len(rows) - 0.4], "showgrid": False},
        y_axes={"range": [math.log10(LEAST) - 0.15, 0.12], "tickvals": [10.0**power for power in powers],
                "ticktext": [f"{100 * 10.0**power:g} %" for power in powers]},
    )  # fmt: skip
