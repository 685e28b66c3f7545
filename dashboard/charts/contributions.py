"""Who writes the residual stream: a bar per sublayer, before (top) and after (bottom); edited ones violet, hatched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from dashboard.charts.chart import Chart
from dashboard.charts.labels import label
from dashboard.charts.palette import Palette
from dashboard.charts.panels import Along, Panels
from dashboard.charts.runs import NARROW_NAME, Line, panel_title

VALUES = {"share": "share", "signed_share": "signed share"}
"""Column → name of the axis."""

TICK_EVERY = 4  # layers
BAR = 0.86  # of a place


@dataclass(frozen=True)
class Pair:
    """A run at the two checkpoints that are compared; the same one twice where there is only one."""

    line: Line
    before: int
    after: int


@dataclass(frozen=True)
class Moment:
    """What one panel shows: a run at a checkpoint.

    Attributes:
        line: the run; the first of them where all look alike.
        edits: the checkpoint.
        all_alike: whether it represents every run.
    """

    line: Line
    edits: int
    all_alike: bool = False


def moments(frame: pd.DataFrame, pairs: Sequence[Pair]) -> list[Moment]:
    """The panels from top to bottom: each run before and after; only one "before" where it is the same for all.

    Args:
        frame: columns run, edits, sublayer, share.
        pairs: the runs.
    """
    befores = [_shares(frame, pair) for pair in pairs]
    alike = len(pairs) > 1 and all(shares == befores[0] for shares in befores)
    found = [Moment(pairs[0].line, pairs[0].before, True)] if alike else []
    for pair in pairs:
        if not alike:
            found.append(Moment(pair.line, pair.before))
        if pair.after != pair.before:
            found.append(Moment(pair.line, pair.after))
    return found


def _shares(frame: pd.DataFrame, pair: Pair) -> tuple[object, ...]:
    rows = frame[(frame["run"] == pair.line.run) & (frame["edits"] == pair.before)]
    return pair.before, pair.line.layers, *rows["share"]


def shown(frame: pd.DataFrame, panels: Sequence[Moment], value: str) -> pd.DataFrame:
    """The rows that `bars` draws.

    Args:
        frame: columns run, edits, sublayer, label, kind, layer, and the value's.
        panels: from `moments`.
        value: from `VALUES`.

    Returns:
        run, edits, sublayer, label, kind, layer, edited, and the value's column.
    """
    parts = []
    for panel in panels:
        part = frame[(frame["run"] == panel.line.run) & (frame["edits"] == panel.edits)]
        parts.append(part.assign(edited=_edited(part, panel.line)))
    columns = ["run", "edits", "sublayer", "label", "kind", "layer", "edited", value]
    return pd.concat(parts, ignore_index=True)[columns]


def differences(frame: pd.DataFrame, pairs: Sequence[Pair], value: str) -> pd.DataFrame:
    """After minus before, of every sublayer.

    Args:
        frame, value: as for `shown`.
        pairs: the runs.

    Returns:
        run, before, after, sublayer, label, kind, layer, edited, difference.
    """
    parts = []
    for pair in pairs:
        of_run = frame[frame["run"] == pair.line.run].set_index("sublayer")
        before, after = (of_run[of_run["edits"] == at] for at in (pair.before, pair.after))
        part = after.assign(
            before=pair.before,
            after=pair.after,
            edited=_edited(after, pair.line),
            difference=after[value] - before[value],
        )
        parts.append(part.reset_index())
    columns = ["run", "before", "after", "sublayer", "label", "kind", "layer", "edited", "difference"]
    return pd.concat(parts, ignore_index=True)[columns]


def bars(
    rows: pd.DataFrame, panels: Sequence[Moment], colours: Palette, *, value: str = "share", height: int = 190
) -> Chart:
    """A bar for each sublayer from the input up, one panel per moment, all with the same axes.

    Args:
        rows: as `shown` gives them.
        panels: the same that it was given.
        colours: the theme's.
        value: column to draw; the title of a panel says the sum of the signed shares.
        height: of a panel in pixels.
    """
    parts = [rows[(rows["run"] == panel.line.run) & (rows["edits"] == panel.edits)] for panel in panels]
    titles = []
    for panel, part in zip(panels, parts, strict=True):
        total = f" · sum {part[value].sum(skipna=False):.4f}" if value == "signed_share" else ""
        titles.append(tuple(_title(panel, moment(panel.edits) + total, colours, width) for width in (40, NARROW_NAME)))
    return _drawn(parts, titles, value, VALUES[value], colours, height)


def change(
    rows: pd.DataFrame, pairs: Sequence[Pair], colours: Palette, *, value: str = "share", height: int = 190
) -> Chart:
    """After minus before, a bar for each sublayer, one panel per run.

    Args:
        rows: as `differences` gives them.
        pairs: the same that it was given.
        colours: the theme's.
        value: what the difference is of.
        height: of a panel in pixels.
    """
    parts = [rows[rows["run"] == pair.line.run] for pair in pairs]
    titles = []
    for pair in pairs:
        told = f"{moment(pair.after)} minus {moment(pair.before)}"
        titles.append(tuple(_title(Moment(pair.line, pair.after), told, colours, w) for w in (40, NARROW_NAME)))
    return _drawn(parts, titles, "difference", "change of the share", colours, height)


def moment(edits: int) -> str:
    """A checkpoint in words."""
    return f"after {edits:,} edit{'s' * (edits != 1)}" if edits else "as loaded"


def _title(panel: Moment, told: str, colours: Palette, width: int) -> str:
    name = f"<b>{label('All runs', width)}</b>" if panel.all_alike else panel_title(panel.line, colours, width)
    return f'{name} <span style="color:{colours.muted};font-size:13px">{told}</span>'


def _edited(part: pd.DataFrame, line: Line) -> pd.Series:
    """Which sublayers hold an edited matrix."""
    return (part["kind"] == "MLP") & part["layer"].isin(line.layers)


def _drawn(
    parts: Sequence[pd.DataFrame],
    titles: Sequence[tuple[str, str]],
    column: str,
    y_title: str,
    colours: Palette,
    height: int,
) -> Chart:
    highest = max((int(part["sublayer"].max()) for part in parts if len(part)), default=0)
    # A layer's tick is between its attention and its MLP.
    ticks = tuple((2 * layer + 1.5, str(layer)) for layer in range(0, highest // 2, TICK_EVERY))
    panels = Panels(titles, colours, height, Along("layer", "", ticks))
    looks = {
        "input": {"color": colours.panel, "line": {"width": 1.5, "color": colours.ink}},
        "attention": {"color": colours.attention},
        "MLP": {"color": colours.mlp},
        "edited MLP": {
            "color": colours.edited,
            "pattern": {"shape": "/", "fgcolor": colours.panel, "fillmode": "overlay", "size": 5, "solidity": 0.35},
        },
    }
    legend: set[str] = set()
    for number, part in enumerate(parts):
        kinds = part["kind"].astype(str).where(~part["edited"], "edited MLP")
        for kind, look in looks.items():
            of_kind = part[kinds == kind]
            if of_kind.empty:
                continue
            panels.bar(
                number,
                x=of_kind["sublayer"],
                y=of_kind[column],
                name=kind,
                legendgroup=kind,
                showlegend=kind not in legend,
                width=BAR,
                marker={"line": {"width": 0}} | look,
                customdata=of_kind["label"].astype(str),
                hovertemplate=f"%{{customdata}}{', edited' * (kind == 'edited MLP')}  %{{y:.3%}}<extra></extra>",
            )
            legend.add(kind)
    return panels.finished(
        y_title,
        shared_y=True,
        columns=(1, 1),
        # Bars are side by side: the hover names the one under the pointer.
        more={"hovermode": "closest", "barmode": "overlay"},
        x_axes={"rangemode": "normal", "showgrid": False},
        y_axes={"zeroline": True, "zerolinecolor": colours.muted, "tickformat": ".3~p", "nticks": 8},
    )
