"""One method's answers in a column beside other methods': narrow, and with the same axis in every column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from dashboard.charts.answers import SECTIONS
from dashboard.charts.chart import Chart, Traces
from dashboard.charts.labels import FONT, label, percent
from dashboard.charts.palette import Palette

HEADING, TEXT, LANE, GAP = 32, 19, 18, 8
"""Heights in pixels of what is stacked: a section's heading, a prompt, its lane, and the gap below."""

TOP, BOTTOM, RIGHT = 4, 34, 92
LONGEST = 30
"""Characters of a prompt in a column."""

_MARKS = (("new", "circle"), ("true", "diamond"))


def column(rows: pd.DataFrame, colours: Palette) -> Chart:
    """How probable both answers to each prompt were (hollow) and are (filled), all on one lane per prompt.

    Args:
        rows: as `model_readings.observe` makes them.
        colours: the theme's.
    """
    y, section = 0.0, None
    texts: list[dict[str, Any]] = []
    lanes: list[tuple[Any, float]] = []
    for row in rows.itertuples():
        if SECTIONS[row.kind] != section:
            section = SECTIONS[row.kind]
            y += HEADING
            texts.append(_text(0, y - 9, f"<b>{section.upper()}</b>", colours.muted, 12))
        y += TEXT
        tone = {"good": colours.good, "bad": colours.bad, "warn": colours.warn}.get(row.tone, colours.muted)
        verdict = f'<span style="color:{tone}"><b>{row.symbol}</b></span> ' if row.symbol else ""
        # A neighbour's own answer is the word that matters, so the prompt alone is shortened.
        own = f" … {label(row.true, LONGEST // 2)}" if row.kind == "neighbour" else ""
        room = max(LONGEST // 3, LONGEST - (3 + len(row.true) if own else 0))
        texts.append(_text(0, y - 8, verdict + label(row.prompt, room) + own, colours.ink, 13))
        at = y + LANE / 2
        lanes.append((row, at))
        texts.append(_text(1, at, _figures(row, colours), colours.ink, 12) | {"xshift": 10})
        y += LANE + GAP
    traces = Traces()
    _draw_lanes(traces, [at for _, at in lanes], colours)
    for which, symbol in _MARKS:
        _draw_moves(traces, lanes, which, getattr(colours, which))
        for moment in ("before", "after"):
            _draw_marks(traces, lanes, which, symbol, moment, getattr(colours, which))
    layout = {
        "height": int(y) + TOP + BOTTOM,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 13, "color": colours.ink},
        "hoverlabel": {"font": {"family": FONT, "size": 13}},
        "dragmode": False,
        "showlegend": False,
        "margin": {"l": 8, "r": RIGHT, "t": TOP, "b": BOTTOM},
        "annotations": texts,
        "xaxis": {
            "fixedrange": True, "range": [0, 1], "tickvals": [0, 0.5, 1], "ticktext": ["0", "50", "100 %"],
            "showgrid": False, "zeroline": False, "tickfont": {"color": colours.muted, "size": 12},
        },
        "yaxis": {"fixedrange": True, "range": [y, 0], "visible": False},
    }  # fmt: skip
    return Chart(traces, layout, layout)


def _figures(row: Any, colours: Palette) -> str:
    """Both answers' probabilities after the edit, in their colours."""
    new = f'<span style="color:{colours.new}"><b>{percent(row.new_after)}</b></span>'
    if row.true is None:
        return new
    return f'{new} <span style="color:{colours.true}">{percent(row.true_after)}</span>'


def _draw_lanes(traces: Traces, at: Sequence[float], colours: Palette) -> None:
    x: list[float | None] = []
    y: list[float | None] = []
    for place in at:
        x += [0, 1, None]
        y += [place, place, None]
    traces.scatter(x=x, y=y, mode="lines", line={"color": colours.line, "width": 2}, hoverinfo="skip")


def _draw_moves(traces: Traces, lanes: Sequence[tuple[Any, float]], which: str, colour: str) -> None:
    x: list[float | None] = []
    y: list[float | None] = []
    for row, at in lanes:
        if getattr(row, which) is not None:
            x += [getattr(row, f"{which}_before"), getattr(row, f"{which}_after"), None]
            y += [at, at, None]
    traces.scatter(x=x, y=y, mode="lines", line={"color": colour, "width": 3}, hoverinfo="skip")


def _draw_marks(
    traces: Traces, lanes: Sequence[tuple[Any, float]], which: str, symbol: str, moment: str, colour: str
) -> None:
    """The marks of one of the two answers before the edit, or after it."""
    given = [(row, at) for row, at in lanes if getattr(row, which) is not None]
    hollow = moment == "before"
    traces.scatter(
        x=[getattr(row, f"{which}_{moment}") for row, _ in given],
        y=[at for _, at in given],
        customdata=[
            [label(getattr(row, which), 30), percent(getattr(row, f"{which}_before")),
             percent(getattr(row, f"{which}_after"))]
            for row, _ in given
        ],
        hovertemplate="%{customdata[0]}<br>before %{customdata[1]}<br>after %{customdata[2]}<extra></extra>",
        mode="markers",
        cliponaxis=False,
        name=f"{which} answer, {moment}",
        marker={
            "symbol": f"{symbol}-open" if hollow else symbol,
            "size": 9 if hollow else 11,
            "color": colour,
            "line": {"width": 2, "color": colour},
        },
    )  # fmt: skip


def _text(x: float, y: float, text: str, colour: str, size: int) -> dict[str, Any]:
    """An annotation that begins at x and is centred on y."""
    return {
        "x": x, "y": y, "text": text, "xanchor": "left", "yanchor": "middle", "showarrow": False, "align": "left",
        "font": {"color": colour, "size": size},
    }  # fmt: skip
