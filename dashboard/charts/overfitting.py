"""Early stopping: an optimisation step by step, probabilities of many facts, and how many steps were taken.

With and without MPES differ in colour and in dash or hatch; anything else is grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dashboard.charts.chart import Chart, Traces
from dashboard.charts.labels import FONT, label
from dashboard.charts.palette import Palette
from dashboard.charts.panels import Along, Panels

HILL = 0.72
"""Height of a hill, where 1 is the distance between two."""

HILL_POINTS = 200
BANDWIDTH = 0.025  # of the kernel, in probability

TERMS = {
    "probability": "p of the answer",
    "loss": "Loss",
    "nll": "−log p",
    "kl": "KL term",
    "decay": "Weight decay",
}
"""Column of a trajectory → title of its panel: the probability, the loss, and the three terms that make up the loss."""

STEPS = Along("step", "step %{x:,d}")


@dataclass(frozen=True)
class Arm:
    """One side of the comparison.

    Attributes:
        key: in the frames' column `arm`.
        name: in the legend.
        mpes: whether it stops early; None for facts that were not edited.
    """

    key: str
    name: str
    mpes: bool | None

    def colour(self, colours: Palette) -> str:
        return {True: colours.mpes, False: colours.no_mpes, None: colours.muted}[self.mpes]


def steps(frame: pd.DataFrame, arms: Sequence[Arm], colours: Palette, height: int = 250) -> Chart:
    """One optimisation step by step: a panel for the probability, the loss and each of its terms, a line per arm.

    Args:
        frame: arm, step, probability, loss, nll, kl, decay; the last step of an arm is where it stopped.
        arms: the lines.
        colours: the theme's.
        height: of a row of panels in pixels.
    """
    panels = Panels([(f"<b>{title}</b>",) * 2 for title in TERMS.values()], colours, height, STEPS)
    paths = [(arm, frame[frame["arm"] == arm.key].sort_values("step")) for arm in arms]
    ends = [(arm.colour(colours), path.iloc[-1]) for arm, path in paths if len(path)]
    for number, term in enumerate(TERMS):
        for arm, path in paths:
            panels.scatter(
                number,
                x=path["step"],
                y=path[term],
                mode="lines",
                name=label(arm.name, 40),
                legendgroup=arm.key,
                showlegend=number == 0,
                line={"color": arm.colour(colours), "width": 2.5, "dash": "solid" if arm.mpes else "dash"},
                hovertemplate=f"{label(arm.name, 30)}  %{{y:.3g}}<extra></extra>",
            )
        panels.scatter(
            number,
            x=[end["step"] for _, end in ends],
            y=[end[term] for _, end in ends],
            mode="markers",
            name="stopping point",
            legendgroup="stop",
            legendrank=2000,
            showlegend=number == 0 and len(ends) == 1,  # of several stars it would show the first one's colour alone
            hoverinfo="skip",
            marker={
                "symbol": "star",
                "size": 14,
                "color": [colour for colour, _ in ends],
                "line": {"width": 1, "color": colours.page},
            },
        )
    chart = panels.finished("", shared_y=False, columns=(5, 2))
    for layout in chart.layouts:
        layout["yaxis"].update(range=[-0.04, 1.04], tickvals=[0, 0.25, 0.5, 0.75, 1])
    return chart


def hill(values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """The density of values, smoothed by a Gaussian kernel, from the smallest to the largest.

    Args:
        values: one or more.

    Returns:
        places and densities, both (HILL_POINTS,); the density is 1 at its highest.
    """
    there = values.dropna().to_numpy(dtype=float)
    at = np.linspace(there.min(), there.max(), HILL_POINTS)
    density = np.exp(-0.5 * ((at[:, None] - there) / BANDWIDTH) ** 2).sum(axis=1)
    return at, density / density.max()


def distributions(groups: Sequence[tuple[Arm, pd.Series]], colours: Palette) -> Chart:
    """Probabilities of many facts: a hill per arm, a diamond at its mean.

    Args:
        groups: arms with their facts' probabilities, from the top down.
        colours: the theme's.
    """
    traces = Traces()
    for place, (arm, values) in enumerate(reversed(groups)):
        colour, mean = arm.colour(colours), float(values.mean())
        at, height = hill(values)
        traces.scatter(
            x=[*at, *at[::-1]],
            y=[*(place + HILL * height), *[place] * len(at)],
            name=label(arm.name, 40),
            mode="lines",
            fill="toself",
            line={"color": colour, "width": 1.5},
            opacity=0.75,
            hoverinfo="skip",
            showlegend=False,
        )
        traces.scatter(
            x=[mean],
            y=[place],
            mode="markers+text",
            marker={"symbol": "diamond", "size": 12, "color": colour, "line": {"width": 1, "color": colours.page}},
            text=[f"mean {mean:.2f}"],
            textposition="bottom right" if mean < 0.6 else "bottom left",
            textfont={"size": 13, "color": colours.ink},
            showlegend=False,
            hovertemplate=f"{label(arm.name, 40)}: mean %{{x:.3f}} of {len(values):,} facts<extra></extra>",
        )
    names = [(arm.name, len(values)) for arm, values in reversed(groups)]
    layouts = [
        _layout(colours, height=90 + 92 * len(groups), left=left)
        | {
            "xaxis": _axis(colours, "probability") | {"range": [0, 1], "tickvals": [0, 0.25, 0.5, 0.75, 1]},
            "yaxis": _axis(colours, "")
            | {
                "range": [-0.35, len(groups) - 0.05],
                "tickvals": list(range(len(names))),
                "ticktext": [f"<b>{label(name, width)}</b><br>{n:,} facts" for name, n in names],
                "showgrid": False,
            },
        }
        for left, width in ((190, 26), (132, 18))
    ]
    return Chart(traces, *layouts)


def step_counts(groups: Sequence[tuple[Arm, pd.Series]], colours: Palette) -> Chart:
    """After how many steps facts stopped: share of facts for each number of steps, a bar per arm.

    Args:
        groups: arms with their facts' numbers of steps.
        colours: the theme's.
    """
    traces = Traces()
    most = 0
    for arm, values in groups:
        shares = 100 * values.value_counts(normalize=True).sort_index()
        most = max(most, int(values.max()))
        colour = arm.colour(colours)
        traces.bar(
            x=shares.index,
            y=shares,
            name=label(arm.name, 40),
            marker={
                "color": colour,
                "line": {"width": 1, "color": colour},
                "pattern": {
                    "shape": "" if arm.mpes else "/",
                    "fgcolor": colours.page,
                    "size": 6,
                    "fillmode": "overlay",
                },
            },
            hovertemplate=f"{label(arm.name, 30)}: %{{y:.1f}} % of facts after %{{x}} steps<extra></extra>",
        )
    layouts = [
        _layout(colours, height=250, left=60, top=top)
        | {
            "barmode": "group",
            "bargap": 0.15,
            "showlegend": True,
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 13}},
            "xaxis": _axis(colours, "steps until it stopped") | {"range": [-0.6, most + 0.6], "nticks": 12},
            "yaxis": _axis(colours, "% of facts") | {"rangemode": "tozero"},
        }
        for top in (44, 76)
    ]
    return Chart(traces, *layouts)


def _layout(colours: Palette, *, height: int, left: int, top: int = 40) -> dict:
    return {
        "height": height,
        "margin": {"l": left, "r": 20, "t": top, "b": 48},
        "paper_bgcolor": colours.page,
        "plot_bgcolor": colours.page,
        "font": {"family": FONT, "size": 14, "color": colours.ink},
        "hovermode": "closest",
        "hoverlabel": {
            "font": {"family": FONT, "size": 13, "color": colours.ink},
            "bgcolor": colours.panel,
            "bordercolor": colours.line,
        },
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": colours.muted, "activecolor": colours.ink},
    }


def _axis(colours: Palette, title: str) -> dict:
    return {
        "title": {"text": title, "font": {"color": colours.muted, "size": 13}, "standoff": 8},
        "gridcolor": colours.line,
        "zeroline": False,
        "tickfont": {"size": 13, "color": colours.ink},
        "automargin": False,
        "ticks": "",
    }
