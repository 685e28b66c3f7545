"""What a model says before and after an edit, and how much its matrices have grown: the charts of the Edit page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from dashboard.charts.chart import Chart, Traces
from dashboard.charts.labels import FONT, label, percent
from dashboard.charts.palette import Palette

_HEADING, _LABEL, _LANE, _GAP = 40, 27, 25, 15  # heights in pixels of what the probability chart stacks
_BETWEEN = 0.16  # gap between the two lists of next words, for the words of the right one

SECTIONS = {
    "rewrite": "Should change",
    "paraphrase": "Should change",
    "neighbour": "Should stay",
    "free": "Your own prompt",
}


def _layout(colours: Palette, height: int, **more: Any) -> dict[str, Any]:
    """What all layouts here have in common, and what is specific to one."""
    return {
        "height": height,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": FONT, "size": 15, "color": colours.ink},
        "hoverlabel": {"font": {"family": FONT, "size": 14}},
        "dragmode": False,
    } | more


def probabilities(rows: pd.DataFrame, colours: Palette, edited: bool) -> Chart:
    """How probable both answers to each prompt were, and are: one lane per answer, hollow mark to filled mark.

    Args:
        rows: as `model_readings.observe` makes them.
        colours: the theme's.
        edited: whether there is an "after"; without it only what the model says as loaded is drawn.
    """
    lanes = _Lanes(colours, edited)
    for row in rows.itertuples():
        lanes.add(row)
    traces = Traces()
    # Lines are traces with gaps, because every shape would be an element of the page.
    lanes.ticks.draw(traces, {"color": colours.line, "width": 1, "dash": "dot"})
    lanes.tracks.draw(traces, {"color": colours.line, "width": 2})
    for which, marks in lanes.points.items():
        moves = _Lines()
        for point in marks:
            moves.add(point["before"], point["after"], point["y"], point["y"])
        moves.draw(traces, {"color": getattr(colours, which), "width": 5})
    for which in ("new", "true"):
        for moment in ("before", "after") if edited else ("before",):
            _draw_marks(traces, lanes.points[which], which, moment, colours, edited)
    top, bottom = 44, 46
    layout = _layout(
        colours,
        int(lanes.y) + top + bottom,
        margin={"l": 12, "r": 190, "t": top, "b": bottom},
        annotations=lanes.texts,
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1,
            "yanchor": "bottom",
            "font": {"size": 14},
        },
        xaxis={
            "fixedrange": True, "range": [0, 1], "tickvals": [0, 0.25, 0.5, 0.75, 1],
            "ticktext": ["0", "25", "50", "75", "100 %"], "showgrid": False, "zeroline": False,
            "tickfont": {"color": colours.muted, "size": 13},
            "title": {"text": "probability of the answer", "font": {"color": colours.muted, "size": 13}, "standoff": 6},
        },
        yaxis={"fixedrange": True, "range": [lanes.y, 0], "visible": False},
    )  # fmt: skip
    return Chart(traces, layout, layout)


class _Lanes:
    """Prompts stacked from the top, each with a lane per answer, and headings where a section begins.

    Attributes:
        y: where the next prompt begins; the height of all in the end.
        points: answer → where its marks are.
        tracks, ticks: lines along the lanes, and across them.
        texts: annotations.
    """

    def __init__(self, colours: Palette, edited: bool) -> None:
        self.y = 0.0
        self.points: dict[str, list[dict]] = {"new": [], "true": []}
        self.tracks, self.ticks = _Lines(), _Lines()
        self.texts: list[dict] = []
        self._colours, self._edited = colours, edited
        self._section: str | None = None

    def add(self, row: Any) -> None:
        """A prompt, as a row of `model_readings.observe`."""
        colours = self._colours
        if SECTIONS[row.kind] != self._section:
            self._section = SECTIONS[row.kind]
            self.y += _HEADING
            self.texts.append(_text(0, self.y - 10, f"<b>{self._section.upper()}</b>", colours.muted, 13))
        tone = {"good": colours.good, "bad": colours.bad, "warn": colours.warn}.get(row.tone, colours.muted)
        self.y += _LABEL
        verdict = f'<span style="color:{tone}"><b>{row.symbol} {row.word}</b></span>   ' if row.word else ""
        prompt = label(row.prompt, 56 if row.word else 68)
        self.texts.append(_text(0, self.y - 11, verdict + prompt, colours.ink, 15))
        lanes_from = self.y
        for which, answer in (("new", row.new), ("true", row.true)):
            if answer is not None:
                self._add_lane(which, answer, getattr(row, f"{which}_before"), getattr(row, f"{which}_after"))
        for share in (0.25, 0.5, 0.75):  # beside the lanes only, so that they do not cross the text
            self.ticks.add(share, share, lanes_from, self.y)
        self.y += _GAP

    def _add_lane(self, which: str, answer: str, before: float, after: float) -> None:
        at = self.y + _LANE / 2
        self.points[which].append({"y": at, "before": before, "after": after, "answer": label(answer, 30)})
        self.tracks.add(0, 1, at, at)
        numbers = f"{percent(before)} → <b>{percent(after)}</b>" if self._edited else f"<b>{percent(before)}</b>"
        beside = _text(1, at, f"{label(answer, 12)}  {numbers}", getattr(self._colours, which), 14)
        self.texts.append(beside | {"xshift": 14})
        self.y += _LANE


def _draw_marks(
    traces: Traces, points: Sequence[dict], which: str, moment: str, colours: Palette, edited: bool
) -> None:
    """The marks of one of the two answers before the edit, or after it."""
    name = {"new": "new answer", "true": "true answer"}[which]
    symbol = {"new": "circle", "true": "diamond"}[which]
    hollow = moment == "before" and edited
    traces.scatter(
        x=[point[moment] for point in points],
        y=[point["y"] for point in points],
        customdata=[[point["answer"], percent(point["before"]), percent(point["after"])] for point in points],
        hovertemplate="%{customdata[0]}<br>before %{customdata[1]}"
        + ("<br>after %{customdata[2]}" if edited else "")
        + "<extra></extra>",
        mode="markers",
        cliponaxis=False,
        name=f"{name}, {moment}" if edited else name,
        marker={
            "symbol": f"{symbol}-open" if hollow else symbol,
            "size": (11 if hollow else 14) + (0 if which == "new" else 1),
            "color": getattr(colours, which),
            "line": {"width": 2, "color": getattr(colours, which)},
        },
    )


class _Lines:
    """Line segments as the points of one trace, with a gap after each."""

    def __init__(self) -> None:
        self.x: list[float | None] = []
        self.y: list[float | None] = []

    def add(self, x0: float, x1: float, y0: float, y1: float) -> None:
        self.x += [x0, x1, None]
        self.y += [y0, y1, None]

    def draw(self, traces: Traces, line: dict) -> None:
        traces.scatter(x=self.x, y=self.y, mode="lines", line=line, hoverinfo="skip", showlegend=False)


def _text(x: float, y: float, text: str, colour: str, size: int) -> dict:
    """An annotation that begins at x and is centred on y."""
    return {
        "x": x, "y": y, "text": text, "xanchor": "left", "yanchor": "middle", "showarrow": False, "align": "left",
        "font": {"color": colour, "size": size},
    }  # fmt: skip


def next_tokens(tokens: pd.DataFrame, colours: Palette) -> Chart:
    """The most probable next tokens, before (left) and after (right), bars of the two answers in their colours.

    Args:
        tokens: columns `moment` ("before", "after"), `rank`, `token`, `probability`, `role` ("new", "true" or "").
        colours: the theme's.
    """
    moments = list(dict.fromkeys(tokens["moment"]))
    traces = Traces()
    for number, moment in enumerate(moments):
        part = tokens[tokens["moment"] == moment]
        suffix = str(number + 1) if number else ""
        traces.bar(
            xaxis=f"x{suffix}", yaxis=f"y{suffix}", orientation="h", x=part["probability"], y=part["rank"],
            marker={"color": [{"new": colours.new, "true": colours.true}.get(role, colours.muted)
                              for role in part["role"]]},
            text=[percent(value) for value in part["probability"]], textposition="outside", cliponaxis=False,
            textfont={"color": colours.ink}, hoverinfo="skip", showlegend=False,
        )  # fmt: skip
    return Chart(traces, _two_lists(tokens, moments, colours), _two_lists(tokens, moments, colours, is_narrow=True))


def _two_lists(tokens: pd.DataFrame, moments: Sequence[str], colours: Palette, is_narrow: bool = False) -> dict:
    """The layout of `next_tokens`; a narrow page has shorter bars, so that their figures keep off the words."""
    titles = {"before": "Before", "after": "After"} if len(moments) > 1 else {"before": "Next word, as loaded"}
    between, most, size = (0.3, 1.75, 13) if is_narrow else (_BETWEEN, 1.22, 15)
    width = (1 - between * (len(moments) - 1)) / len(moments)
    axes, headings = {}, []
    for number, moment in enumerate(moments):
        part = tokens[tokens["moment"] == moment]
        suffix, left = str(number + 1) if number else "", number * (width + between)
        axes[f"xaxis{suffix}"] = {
            "fixedrange": True, "anchor": f"y{suffix}", "domain": [left, left + width], "visible": False,
            "range": [0, most],
        }  # fmt: skip
        axes[f"yaxis{suffix}"] = {
            "fixedrange": True, "anchor": f"x{suffix}", "autorange": "reversed", "tickvals": part["rank"],
            "ticktext": [label(token, 10 if is_narrow else 14) for token in part["token"]], "ticks": "",
            "ticklabelstandoff": 6, "showgrid": False, "zeroline": False, "tickfont": {"size": size},
        }  # fmt: skip
        headings.append({
            "text": f"<b>{titles[moment]}</b>", "x": left + width / 2, "y": 1, "xref": "paper", "yref": "paper",
            "xanchor": "center", "yanchor": "bottom", "showarrow": False,
            "font": {"size": 15, "color": colours.muted},
        })  # fmt: skip
    return _layout(
        colours,
        66 + 31 * int(tokens["rank"].max()),
        margin={"l": 84 if is_narrow else 100, "r": 12, "t": 40, "b": 8},
        bargap=0.3,
        annotations=headings,
        **axes,
    )


def norm_growth(norms: pd.DataFrame, colours: Palette) -> Chart:
    """How much each edited matrix has grown, in percent of its norm as loaded.

    Args:
        norms: columns `layer`, `before` (‖W₀‖) and `after` (‖W‖).
        colours: the theme's.
    """
    growth = 100 * (norms["after"] / norms["before"] - 1)
    traces = Traces()
    traces.bar(
        x=[f"layer {layer}" for layer in norms["layer"]],
        y=growth,
        text=[f"{value:+.3f} %" for value in growth],
        textposition="outside",
        cliponaxis=False,
        hoverinfo="skip",
        marker={
            "color": colours.edited,
            "pattern": {"shape": "/", "fgcolor": colours.panel, "fillmode": "overlay", "size": 7},
        },
    )
    layout = _layout(
        colours,
        280,
        margin={"l": 64, "r": 12, "t": 30, "b": 34},
        bargap=0.45,
        xaxis={"fixedrange": True},
        yaxis={
            "fixedrange": True, "gridcolor": colours.line, "zerolinecolor": colours.line, "rangemode": "tozero",
            "nticks": 5, "ticksuffix": " %", "tickfont": {"color": colours.muted, "size": 13},
        },
    )  # fmt: skip
    return Chart(traces, layout, layout)
