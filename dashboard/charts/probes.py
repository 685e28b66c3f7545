"""What a model says before and after an edit, and how much its matrices have grown: the charts of the Edit page."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from dashboard.charts.chart import Chart
from dashboard.charts.text import FONT, label, percent
from dashboard.palette import Palette

_HEADING, _LABEL, _LANE, _GAP = 40, 27, 25, 15  # heights in pixels of what the probability chart stacks

SECTIONS = {
    "rewrite": "Should change",
    "paraphrase": "Should change",
    "neighbour": "Should stay",
    "free": "Your own prompt",
}


def _base(figure: go.Figure, colours: Palette, height: int) -> go.Figure:
    """What all figures have in common. The template is explicit: Streamlit's default one is for its own page only."""
    figure.update_layout(
        template="none",
        height=height,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": FONT, "size": 15, "color": colours.ink},
        hoverlabel={"font": {"family": FONT, "size": 14}},
        dragmode=False,
    )
    figure.update_xaxes(fixedrange=True)
    figure.update_yaxes(fixedrange=True)
    return figure


def probabilities(rows: pd.DataFrame, colours: Palette, edited: bool) -> Chart:
    """How probable both answers to each prompt were, and are: one lane an answer, hollow mark to filled mark.

    Args:
        rows: as `probes.observe` makes them.
        colours: the theme's.
        edited: whether there is an "after"; without it only what the model says as loaded is drawn.
    """
    figure = go.Figure()
    y = 0.0
    section = None
    points: dict[str, list[dict]] = {"new": [], "true": []}
    tracks, ticks, texts = _Lines(), _Lines(), []
    for row in rows.itertuples():
        if SECTIONS[row.kind] != section:
            section = SECTIONS[row.kind]
            y += _HEADING
            texts.append(_text(0, y - 10, f"<b>{section.upper()}</b>", colours.muted, 13))
        tone = {"good": colours.good, "bad": colours.bad, "warn": colours.warn}.get(row.tone, colours.muted)
        y += _LABEL
        verdict = f'<span style="color:{tone}"><b>{row.symbol} {row.word}</b></span>   ' if row.word else ""
        texts.append(_text(0, y - 11, verdict + label(row.prompt, 56 if row.word else 68), colours.ink, 15))
        lanes_from = y
        for which, answer in (("new", row.new), ("true", row.true)):
            if answer is None:
                continue
            before, after = getattr(row, f"{which}_before"), getattr(row, f"{which}_after")
            at = y + _LANE / 2
            points[which].append({"y": at, "before": before, "after": after, "answer": label(answer, 30)})
            tracks.add(0, 1, at, at)
            numbers = f"{percent(before)} → <b>{percent(after)}</b>" if edited else f"<b>{percent(before)}</b>"
            beside = _text(1, at, f"{label(answer, 12)}  {numbers}", getattr(colours, which), 14)
            texts.append(beside | {"xshift": 14})
            y += _LANE
        for share in (0.25, 0.5, 0.75):  # beside the lanes only, lest they cross the text
            ticks.add(share, share, lanes_from, y)
        y += _GAP
    # Lines are traces with gaps: hundreds of shapes would take Plotly's Python side seconds.
    ticks.draw(figure, {"color": colours.line, "width": 1, "dash": "dot"})
    tracks.draw(figure, {"color": colours.line, "width": 2})
    for which, marks in points.items():
        moves = _Lines()
        for point in marks:
            moves.add(point["before"], point["after"], point["y"], point["y"])
        moves.draw(figure, {"color": getattr(colours, which), "width": 5})
    names = {"new": "new answer", "true": "true answer"}
    for which, symbol in (("new", "circle"), ("true", "diamond")):
        for moment in ("before", "after") if edited else ("before",):
            hollow = moment == "before" and edited
            figure.add_scatter(
                x=[point[moment] for point in points[which]],
                y=[point["y"] for point in points[which]],
                customdata=[
                    [point["answer"], percent(point["before"]), percent(point["after"])] for point in points[which]
                ],
                hovertemplate="%{customdata[0]}<br>before %{customdata[1]}"
                + ("<br>after %{customdata[2]}" if edited else "")
                + "<extra></extra>",
                mode="markers",
                cliponaxis=False,
                name=f"{names[which]}, {moment}" if edited else names[which],
                marker={
                    "symbol": f"{symbol}-open" if hollow else symbol,
                    "size": (11 if hollow else 14) + (0 if which == "new" else 1),
                    "color": getattr(colours, which),
                    "line": {"width": 2, "color": getattr(colours, which)},
                },
            )
    top, bottom = 44, 46
    _base(figure, colours, int(y) + top + bottom)
    figure.update_layout(
        margin={"l": 12, "r": 190, "t": top, "b": bottom},
        annotations=texts,
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1,
            "yanchor": "bottom",
            "font": {"size": 14},
        },
    )
    figure.update_xaxes(
        range=[0, 1], tickvals=[0, 0.25, 0.5, 0.75, 1], ticktext=["0", "25", "50", "75", "100 %"],
        showgrid=False, zeroline=False, tickfont={"color": colours.muted, "size": 13},
        title={"text": "probability of the answer", "font": {"color": colours.muted, "size": 13}, "standoff": 6},
    )  # fmt: skip
    figure.update_yaxes(range=[y, 0], visible=False)
    return Chart.of(figure)


class _Lines:
    """Line segments as the points of one trace, with a gap behind each."""

    def __init__(self) -> None:
        self.x: list[float | None] = []
        self.y: list[float | None] = []

    def add(self, x0: float, x1: float, y0: float, y1: float) -> None:
        self.x += [x0, x1, None]
        self.y += [y0, y1, None]

    def draw(self, figure: go.Figure, line: dict) -> None:
        figure.add_scatter(x=self.x, y=self.y, mode="lines", line=line, hoverinfo="skip", showlegend=False)


def _text(x: float, y: float, text: str, colour: str, size: int) -> dict:
    """An annotation that begins at x and is centred on y."""
    return {
        "x": x, "y": y, "text": text, "xanchor": "left", "yanchor": "middle", "showarrow": False, "align": "left",
        "font": {"color": colour, "size": size},
    }  # fmt: skip


def next_tokens(tokens: pd.DataFrame, colours: Palette) -> Chart:
    """The most probable next tokens, before beside after, bars of the two answers in their colours.

    Args:
        tokens: columns `moment` ("before", "after"), `rank`, `token`, `probability`, `role` ("new", "true" or "").
        colours: the theme's.
    """
    moments = list(dict.fromkeys(tokens["moment"]))
    titles = {"before": "Before", "after": "After"} if len(moments) > 1 else {"before": "Next word, as loaded"}
    figure = make_subplots(
        cols=len(moments),
        subplot_titles=[f"<b>{titles[moment]}</b>" for moment in moments],
        shared_yaxes=False,
        horizontal_spacing=0.16,
    )
    for column, moment in enumerate(moments, start=1):
        part = tokens[tokens["moment"] == moment]
        figure.add_bar(
            col=column, row=1, orientation="h", x=part["probability"], y=part["rank"],
            marker_color=[{"new": colours.new, "true": colours.true}.get(role, colours.muted) for role in part["role"]],
            text=[percent(value) for value in part["probability"]], textposition="outside", cliponaxis=False,
            textfont={"color": colours.ink}, hoverinfo="skip", showlegend=False,
        )  # fmt: skip
        figure.update_xaxes(visible=False, range=[0, 1.22], col=column)
        figure.update_yaxes(
            col=column, autorange="reversed", tickvals=part["rank"], ticktext=[label(t, 14) for t in part["token"]],
            ticks="", ticklabelstandoff=6, showgrid=False, zeroline=False, tickfont={"size": 15},
        )  # fmt: skip
    _base(figure, colours, 66 + 31 * int(tokens["rank"].max()))
    figure.update_layout(margin={"l": 100, "r": 12, "t": 40, "b": 8}, bargap=0.3)
    figure.update_annotations(font={"size": 15, "color": colours.muted})
    return Chart.of(figure)


def norm_growth(norms: pd.DataFrame, colours: Palette) -> Chart:
    """How much each edited matrix has grown, in percent of its norm as loaded.

    Args:
        norms: columns `layer`, `before` (‖W₀‖) and `after` (‖W‖).
        colours: the theme's.
    """
    growth = 100 * (norms["after"] / norms["before"] - 1)
    figure = go.Figure()
    figure.add_bar(
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
    _base(figure, colours, 280)
    figure.update_layout(margin={"l": 64, "r": 12, "t": 30, "b": 34}, bargap=0.45)
    figure.update_yaxes(
        gridcolor=colours.line, zerolinecolor=colours.line, rangemode="tozero", nticks=5, ticksuffix=" %",
        tickfont={"color": colours.muted, "size": 13},
    )  # fmt: skip
    return Chart.of(figure)
