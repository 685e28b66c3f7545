"""Foretold damage: of a run's layers over its edits, and of a fact at each block before any edit."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from dashboard.charts.chart import Chart
from dashboard.charts.palette import Palette
from dashboard.charts.panels import Along, Panels
from dashboard.charts.runs import NARROW_NAME, Line, panel_title

TICK_EVERY = 4  # blocks


def over_edits(frame: pd.DataFrame, lines: Sequence[Line], colours: Palette, height: int = 300) -> Chart:
    """What the edits cost general text: a panel per run, a line per edited layer, their sum, and what was measured.

    Args:
        frame: run, edits, kind ("layer", "sum", "measured"), layer (of the first kind), value (nats per token).
            Only values above 0 are drawn: the axis is logarithmic.
        lines: the runs, one panel each.
        colours: the theme's.
        height: of a row of panels in pixels.
    """
    titles = [(panel_title(line, colours, 34), panel_title(line, colours, NARROW_NAME)) for line in lines]
    panels = Panels(titles, colours, height)
    edited = sorted({layer for line in lines for layer in line.layers})
    ramp = dict(zip(edited, colours.layers(len(edited)), strict=True)) if edited else {}
    legend: set[str] = set()

    def draw(number: int, part: pd.DataFrame, name: str, rank: int, look: dict, **more: object) -> None:
        part = part[part["value"] > 0]
        if part.empty:
            return
        panels.scatter(
            number, x=part["edits"], y=part["value"], mode="lines", name=name, legendgroup=name, legendrank=rank,
            showlegend=name not in legend, line=look, hovertemplate=f"{name}  %{{y:.2~e}}<extra></extra>", **more,
        )  # fmt: skip
        legend.add(name)

    for number, line in enumerate(lines):
        of_run = frame[frame["run"] == line.run]
        for layer in line.layers:
            of_layer = of_run[(of_run["kind"] == "layer") & (of_run["layer"] == layer)]
            draw(number, of_layer, f"layer {layer}", 1000 + layer, {"color": ramp[layer], "width": 1.8})
        draw(number, of_run[of_run["kind"] == "sum"], "all layers, estimated", 2000,
             {"color": colours.ink, "width": 2.8})  # fmt: skip
        draw(number, of_run[of_run["kind"] == "measured"], "measured on a text", 2001,
             {"color": colours.muted, "width": 2.2, "dash": "dot"})  # fmt: skip
    return panels.finished("nats per token, logarithmic", shared_y=True, log=True, columns=(4, 2))


def by_block(frame: pd.DataFrame, colours: Palette, height: int = 230) -> Chart:
    """What a fact would cost at each block, in how many steps, and how many facts get there.

    Args:
        frame: layer, damage, low, high (the median over facts and the quartiles, nats per token), steps (the median),
            reached (per cent of the facts), edited (whether the method's row edits this block).
        colours: the theme's.
        height: of a row of panels in pixels.
    """
    names = ("Estimated damage, nats per token", "Steps", "Facts reached, %")
    ticks = tuple((layer, str(layer)) for layer in frame["layer"] if layer % TICK_EVERY == 0)
    along = Along("last edited block", "block %{x:d}", ticks)
    panels = Panels([(f"<b>{name}</b>",) * 2 for name in names], colours, height, along)
    for number, column in enumerate(("damage", "steps", "reached")):
        for is_edited, part in frame.groupby("edited"):
            bars = {}
            if column == "damage":
                bars["error_y"] = {"type": "data", "symmetric": False, "array": part["high"] - part["damage"],
                                   "arrayminus": part["damage"] - part["low"], "thickness": 1.2, "width": 0,
                                   "color": colours.muted}  # fmt: skip
            panels.scatter(
                number,
                x=part["layer"],
                y=part[column],
                mode="markers",
                name="edited by its settings" if is_edited else "other block",
                legendgroup=str(is_edited),
                showlegend=number == 0,
                cliponaxis=False,
                marker={"color": colours.edited if is_edited else colours.muted,
                        "symbol": "diamond" if is_edited else "circle", "size": 11 if is_edited else 8},
                hovertemplate="%{y:.3~g}<extra></extra>",
                **bars,
            )  # fmt: skip
    return panels.finished("", shared_y=False, columns=(3, 1), hundred=(2,), y_axes={"rangemode": "tozero"})
