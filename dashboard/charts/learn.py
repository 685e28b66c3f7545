"""Pictures of the Learn page: the distance to the targets, layer by layer, and what settings cost and gain."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from dashboard.charts.chart import Chart
from dashboard.charts.labels import label
from dashboard.charts.palette import Palette
from dashboard.charts.panels import Along, Panels

SCORES = {"edit": "Edit score", "paraphrase": "Paraphrase score", "neighbourhood": "Neighbourhood score"}
"""Column → title of its panel."""

AFTER = "after"


def missing(frame: pd.DataFrame, colours: Palette, height: int = 240) -> Chart:
    """How far the hidden state is from its target before each edited layer is changed, and after all of them.

    Args:
        frame: place, name ("layer 6", …, "after"), missing.
        colours: the theme's.
        height: in pixels.
    """
    ticks = tuple(
        (float(place), label(str(name), 12)) for place, name in zip(frame["place"], frame["name"], strict=True)
    )
    along = Along("before the layer is changed", "%{x}", ticks)
    panels = Panels([("<b>‖z − h‖, mean over the facts</b>",) * 2], colours, height, along)
    panels.scatter(
        0,
        x=frame["place"],
        y=frame["missing"],
        mode="lines+markers+text",
        text=[f"{value:.3g}" for value in frame["missing"]],
        textposition="top center",
        textfont={"size": 14, "color": colours.ink},
        cliponaxis=False,
        showlegend=False,
        line={"color": colours.edited, "width": 2.5},
        marker={"size": 11, "symbol": "diamond", "color": colours.edited},
        hovertemplate="%{y:.4g}<extra></extra>",
    )
    top = 1.2 * float(frame["missing"].max() or 1)
    return panels.finished(
        "", shared_y=False, columns=(1, 1), x_axes={"range": [-0.4, len(frame) - 0.6]}, y_axes={"range": [0, top]}
    )


def trade_off(frame: pd.DataFrame, ringed: str | None, colours: Palette, height: int = 300) -> Chart:
    """Scores against the growth of the norm: a panel per score, a point for each choice of settings.

    Args:
        frame: name, growth, edit, paraphrase, neighbourhood, mpes (whether targets stopped early), recorded (whether
            the point is pale where others are not recorded).
        ringed: name of the point that is ringed; None for none.
        colours: the theme's.
        height: of a row of panels in pixels.
    """
    along = Along("growth of ‖W‖, %", "growth %{x:.3f} %")
    panels = Panels([(f"<b>{title}</b>",) * 2 for title in SCORES.values()], colours, height, along)
    groups: Sequence[tuple[bool, str, str, str]] = (
        (True, "with MPES", "circle", colours.mpes),
        (False, "without MPES", "square", colours.no_mpes),
    )
    for number, score in enumerate(SCORES):
        for early, name, symbol, colour in groups:
            part = frame[frame["mpes"] == early]
            if part.empty:
                continue
            rings = [4 if which == ringed else 1 for which in part["name"]]
            pale = part["recorded"] & (not frame["recorded"].all())
            panels.scatter(
                number,
                x=part["growth"],
                y=part[score],
                mode="markers",
                name=name,
                legendgroup=name,
                showlegend=number == 0,
                cliponaxis=False,
                marker={
                    "size": 15,
                    "symbol": symbol,
                    "color": colour,
                    "opacity": pale.map({True: 0.4, False: 1.0}),
                    "line": {"width": rings, "color": colours.ink},
                },
                customdata=[label(text, 40) for text in part["name"]],
                hovertemplate="%{customdata}: %{y:.0f}<extra></extra>",
            )
    return panels.finished(
        "",
        shared_y=False,
        columns=(3, 1),
        hundred=range(len(SCORES)),
        more={"hovermode": "closest"},
        x_axes={"tickformat": ".3~g", "hoverformat": ".3f"},
    )
