"""What a search for hyper-parameters has seen: scores of values, what is left over a life, where facts are recalled."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from dashboard.charts.chart import Chart
from dashboard.charts.palette import Palette
from dashboard.charts.panels import Along, Panels

SCORES = {"overall": "Overall", "edit": "Edit", "paraphrase": "Paraphrase", "neighborhood": "Neighbourhood"}
"""Score → its name in the legend; drawn from the last to the first, so that the first is on top."""

_DASHES = {"overall": "solid", "edit": "dash", "paraphrase": "dot", "neighborhood": "dashdot"}
TICK_EVERY = 4


def searched(frame: pd.DataFrame, titles: Mapping[str, str], colours: Palette, height: int = 240) -> Chart:
    """Scores against the values tried: a panel per setting, values side by side in order, the chosen one as a diamond.

    Args:
        frame: setting, place (0, 1, … in order of the values), value (as text), taken, and a column for each of
            `SCORES`, in per cent.
        titles: setting → title of its panel, in order.
        colours: the theme's.
        height: of a row of panels in pixels.
    """
    panels = Panels([(f"<b>{title}</b>",) * 2 for title in titles.values()], colours, height, Along("", "%{x}"))
    paint = dict(zip(SCORES, (colours.ink, *reversed(colours.steps(4)[:3])), strict=True))
    ticks = []
    for number, setting in enumerate(titles):
        part = frame[frame["setting"] == setting].sort_values("place")
        ticks.append((list(part["place"]), list(part["value"])))
        for score, name in reversed(SCORES.items()):
            top = score == "overall"
            symbols = ["diamond" if taken else "circle" for taken in part["taken"]]
            panels.scatter(
                number,
                x=part["place"],
                y=part[score],
                mode="lines+markers",
                name=name,
                legendgroup=score,
                legendrank=1000 + list(SCORES).index(score),
                showlegend=number == 0,
                cliponaxis=False,
                line={"color": paint[score], "width": 3 if top else 1.5, "dash": _DASHES[score]},
                marker={"color": paint[score], "symbol": symbols, "size": [14 if top and taken else 7 if top else 5
                                                                          for taken in part["taken"]]},
                customdata=part["value"],
                hovertemplate=f"{name} at %{{customdata}}: %{{y:.1f}}<extra></extra>",
            )  # fmt: skip
    chart = panels.finished(
        "", shared_y=False, columns=(4, 2), hundred=range(len(titles)), more={"hovermode": "closest"},
        x_axes={"matches": None, "tickangle": 0},
    )  # fmt: skip
    for layout in chart.layouts:
        for number, (places, texts) in enumerate(ticks):
            axis = layout[f"xaxis{number + 1 if number else ''}"]
            axis.update(range=[-0.4, len(places) - 0.6], tickvals=places, ticktext=texts)
    return chart


def lives(frame: pd.DataFrame, colours: Palette, height: int = 300) -> Chart:
    """What is left of the model over the edits: a thick line for the settings taken, thin ones for the others.

    Args:
        frame: life, label, taken, edits, left (0 to 100).
        colours: the theme's.
        height: in pixels.
    """
    panels = Panels([("", "")], colours, height, Along("edits", "after %{x:,d} edits"))
    named: set[str] = set()
    # The one taken is drawn last, and so on top.
    for _, part in sorted(frame.groupby("life"), key=lambda item: bool(item[1]["taken"].iloc[0])):
        taken, first = bool(part["taken"].iloc[0]), int(part["life"].iloc[0]) == 0
        name = "taken" if taken else "for a few edits" if first else "others tried"
        paint = colours.edited if taken else colours.ink if first else colours.muted
        panels.scatter(
            0, x=part["edits"], y=part["left"], mode="lines+markers", name=name, legendgroup=name,
            showlegend=name not in named, cliponaxis=False,
            line={"color": paint, "width": 3 if taken else 1.5, "dash": "dash" if first and not taken else "solid"},
            marker={"color": paint, "size": 8 if taken else 5, "symbol": "diamond" if taken else "circle"},
            customdata=part["label"], hovertemplate="%{customdata}: %{y:.1f} left<extra></extra>",
        )  # fmt: skip
        named.add(name)
    return panels.finished("left of 100", shared_y=True, columns=(1, 1), hundred=[0], more={"hovermode": "closest"})


def recalled(frame: pd.DataFrame, colours: Palette, height: int = 200) -> Chart:
    """How much of the answer each block restores: a bar per block, edited ones violet and hatched.

    Args:
        frame: layer, effect (a probability), edited.
        colours: the theme's.
        height: in pixels.
    """
    ticks = tuple((layer, str(layer)) for layer in frame["layer"] if layer % TICK_EVERY == 0)
    panels = Panels([("", "")], colours, height, Along("layer", "layer %{x:d}", ticks))
    for edited, part in frame.groupby("edited"):
        panels.bar(
            0,
            x=part["layer"],
            y=part["effect"],
            name="edited layer" if edited else "other layer",
            marker={
                "color": colours.edited if edited else colours.muted,
                "pattern": {"shape": "/" if edited else "", "fgcolor": colours.panel, "fillmode": "overlay", "size": 5},
            },
            hovertemplate="effect %{y:.4f}<extra></extra>",
        )
    return panels.finished(
        "probability", shared_y=True, columns=(1, 1), x_axes={"range": [-0.6, len(frame) - 0.4]}, more={"bargap": 0.2}
    )
