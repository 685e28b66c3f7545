"""Where the growth lands: norms of the matrices of every layer, at some checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from dashboard.charts.chart import Chart
from dashboard.charts.palette import Palette
from dashboard.charts.panels import Along, Panels
from dashboard.charts.runs import NARROW_NAME, Line, panel_title

BETWEEN = ("dash", "dashdot", "longdash", "longdashdot")
"""Dashes of the checkpoints between the first, which is dotted, and the last, which is solid."""

MOST_CHECKPOINTS = len(BETWEEN) + 2
TICK_EVERY = 4


def norms(
    frame: pd.DataFrame,
    lines: Sequence[Line],
    checkpoints: Sequence[int],
    colours: Palette,
    *,
    scale: str = "ratio",
    height: int = 320,
) -> Chart:
    """Frobenius norms against layer: one panel a run, with the same axes; a line a checkpoint.

    The matrices of edited layers are red diamonds on every line, filled at the last checkpoint.

    Args:
        frame: columns run, edits, layer, norm, ratio.
        lines: the runs, one panel each.
        checkpoints: edits, at most `MOST_CHECKPOINTS`, ascending. A run without one of them has no line for it.
        colours: the theme's.
        scale: "ratio" for ‖W‖/‖W₀‖, "linear" or "log" for the norm itself.
        height: of a row of panels in pixels.
    """
    value = "ratio" if scale == "ratio" else "norm"
    titles = [(panel_title(line, colours, 34), panel_title(line, colours, NARROW_NAME)) for line in lines]
    panels = Panels(titles, colours, height, _along(frame))
    dashes = ("dot", *BETWEEN[: len(checkpoints) - 2], "solid")[-len(checkpoints) :]
    shades = colours.layers(len(checkpoints))
    legend: set[str] = set()
    for number, line in enumerate(lines):
        of_run = frame[frame["run"] == line.run]
        for at, dash, shade in zip(checkpoints, dashes, shades, strict=True):
            part = of_run[of_run["edits"] == at].sort_values("layer")
            if part.empty:
                continue
            edited = part["layer"].isin(line.layers)
            named = "as loaded" if at == 0 else f"after {at:,} edits"
            panels.scatter(
                number,
                x=part["layer"],
                y=part[value],
                mode="lines",
                name=named,
                legendgroup=named,
                legendrank=1000 + checkpoints.index(at),
                showlegend=named not in legend,
                line={"color": shade, "width": 2.2, "dash": dash},
                hovertemplate=f"{named}  %{{y:.4~g}}<extra></extra>",
            )
            panels.scatter(
                number,
                x=part["layer"][edited],
                y=part[value][edited],
                mode="markers",
                name="edited layer",
                legendgroup="edited",
                legendrank=2000,
                showlegend=at == checkpoints[-1] and edited.any() and "edited" not in legend,
                hoverinfo="skip",
                marker={
                    "color": colours.edited,
                    "symbol": "diamond" if at == checkpoints[-1] else "diamond-open",
                    "size": 9,
                },
            )
            legend |= {named} | ({"edited"} if at == checkpoints[-1] and edited.any() else set())
    name = {"ratio": "‖W‖ / ‖W₀‖", "log": "‖W‖, logarithmic"}.get(scale, "‖W‖")
    return panels.finished(name, shared_y=True, log=scale == "log", columns=(4, 2))


def _along(frame: pd.DataFrame) -> Along:
    ticks = range(0, int(frame["layer"].max()) + 1, TICK_EVERY) if len(frame) else ()
    return Along("layer", "layer %{x:d}", tuple((layer, str(layer)) for layer in ticks))
