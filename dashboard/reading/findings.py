"""What charts show, in sentences computed from the same frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from dashboard.charts.contributions import Pair, moment
from dashboard.charts.labels import minus
from dashboard.charts.runs import Line

STILL = 5e-5
"""A ratio of norms that differs from 1 by less than this has not moved in the four digits shown."""


# -- norms -------------------------------------------------------------------------------------------------------------


def growth(norms: pd.DataFrame, lines: Sequence[Line], at: int) -> str:
    """Which edited layer has grown most in each run.

    Args:
        norms: columns run, edits, layer, ratio.
        lines: the runs.
        at: edits; for a run without such a checkpoint, the last one before it.
    """
    found = [grown(norms, line, at) for line in lines]
    told = [one for one in found if one is not None]
    if not told:
        return "Nothing has been edited at this checkpoint, so no matrix has grown yet."
    same = {(one.layer, one.edits) for one in told}
    if len(same) == 1 and all(math.isfinite(one.ratio) for one in told):
        [(layer, edits)] = same
        parts = [f"{'to ' * (not place)}{_times(one.ratio)} with {one.name}" for place, one in enumerate(told)]
        which = f"Layer {layer}{', the last one edited,' * all(one.is_last for one in told)}"
        return f"{which} grows most, {_listed(parts)} after {edits:,} edit{'s' * (edits != 1)}."
    parts = [f"{_most(one)} with {one.name} after {one.edits:,} edit{'s' * (one.edits != 1)}" for one in told]
    return f"The edited layer that grows most is {'; '.join(parts)}."


@dataclass(frozen=True)
class Growth:
    """A run's edited layer that has grown most, and how far those that are not edited moved.

    Attributes:
        moved: the largest |ratio − 1| of layers that are not edited.
        is_last: whether the layer is the last one of several that are edited.
    """

    name: str
    edits: int
    layer: int
    ratio: float
    moved: float
    is_last: bool


def grown(norms: pd.DataFrame, line: Line, at: int) -> Growth | None:
    """A run's growth after `at` edits, or at the last checkpoint before; None where nothing has been edited."""
    of_run = norms[(norms["run"] == line.run) & (norms["edits"] <= at)]
    if of_run.empty or of_run["edits"].max() == 0:
        return None
    last = of_run[of_run["edits"] == of_run["edits"].max()]
    is_edited = last["layer"].isin(line.layers)
    edited, others = last[is_edited], last[~is_edited]
    if edited.empty:
        return None
    broken = ~edited["ratio"].abs().lt(math.inf)
    row = edited[broken].iloc[0] if broken.any() else edited.loc[edited["ratio"].idxmax()]
    ratio = math.nan if broken.any() else float(row["ratio"])
    moved = float((others["ratio"] - 1).abs().max(skipna=False)) if len(others) else 0.0
    is_last = len(line.layers) > 1 and int(row["layer"]) == max(line.layers)
    return Growth(line.name, int(row["edits"]), int(row["layer"]), ratio, moved, is_last)


def _times(ratio: float) -> str:
    """A ratio as the chart has it: "× 2.10", with more digits where it is near 1."""
    return f"× {ratio:.2f}" if abs(ratio - 1) >= 0.1 else f"× {ratio:.4f}"


def _most(one: Growth) -> str:
    if not math.isfinite(one.ratio):
        return f"layer {one.layer}, whose norm is no longer a number"
    return f"layer {one.layer}, {_times(one.ratio)}"


def unedited(told: Sequence[Growth]) -> str:
    """What the layers did that are not edited, in a sentence."""
    worst = max(told, key=lambda one: math.inf if math.isnan(one.moved) else one.moved)
    if worst.moved < STILL:
        return "The layers that are not edited did not move."
    if not math.isfinite(worst.moved):
        return f"Under {worst.name} even layers that are not edited have norms that are no longer finite numbers."
    return f"The layers that are not edited moved by at most {100 * worst.moved:.2g} % ({worst.name})."


# -- contributions -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Standing:
    """The edited layers among all sublayers, for one run. Shares are NaN where the model's states are not finite.

    Attributes:
        pair: the run and its checkpoints.
        before, after: the share of all edited MLPs together.
        n_edited, n_gained: edited MLPs, and those of them whose share is larger after than before.
        sublayers: how many there are.
        place: rank of the largest edited MLP after the edits, from 1.
        largest_edited, largest: labels of the largest edited MLP, and of the largest sublayer of all.
        largest_share: of the latter.
        sum_before, sum_after: over all sublayers.
    """

    pair: Pair
    before: float
    after: float
    n_edited: int
    n_gained: int
    sublayers: int
    place: int
    largest_edited: str
    largest: str
    largest_share: float
    sum_before: float
    sum_after: float

    @property
    def is_number(self) -> bool:
        return math.isfinite(self.before) and math.isfinite(self.after)


def standing(frame: pd.DataFrame, pair: Pair, value: str) -> Standing:
    """The share of the edited layers' MLPs, and how they rank.

    Args:
        frame: columns run, edits, sublayer, label, kind, layer, and the value's.
        pair: the run, at checkpoints that the frame has.
        value: "share" or "signed_share".
    """
    of_run = frame[frame["run"] == pair.line.run]
    before, after = (of_run[of_run["edits"] == at] for at in (pair.before, pair.after))
    was, now = (
        rows[(rows["kind"] == "MLP") & rows["layer"].isin(pair.line.layers)].set_index("sublayer")[value]
        for rows in (before, after)
    )
    ranked = after.sort_values(value, ascending=False, kind="stable", na_position="last").reset_index(drop=True)
    edited = ranked[(ranked["kind"] == "MLP") & ranked["layer"].isin(pair.line.layers)]
    return Standing(
        pair,
        before=float(was.sum(skipna=False)),
        after=float(now.sum(skipna=False)),
        n_edited=len(now),
        n_gained=int((now > was).sum()),
        sublayers=len(after),
        place=int(edited.index[0]) + 1,
        largest_edited=str(edited["label"].iloc[0]),
        largest=str(ranked["label"].iloc[0]),
        largest_share=float(ranked[value].iloc[0]),
        sum_before=float(before[value].sum(skipna=False)),
        sum_after=float(after[value].sum(skipna=False)),
    )


def dominance(found: Standing, value_name: str) -> str:
    """One run's answer to the page's question."""
    line, layers = found.pair.line, blocks(found.pair.line.layers)
    after = moment(found.pair.after)
    if not found.is_number:
        return (
            f"{line.name}: the model's states are no longer finite numbers {after}, so there are no shares to compare."
        )
    mlps, them = ("MLP", "It") if found.n_edited == 1 else ("MLPs", "The largest of them")
    make = "makes" if found.n_edited == 1 else "make"
    text = f"{line.name}: the edited {mlps} of {layers} {make} up {_percent(found.after)} of the stream {after}"
    if found.pair.after != found.pair.before:
        gained = f" ({found.n_gained} of {found.n_edited} gained)" * (found.n_edited > 1)
        text += f", {_percent(found.before)} {moment(found.pair.before)}{gained}"
    if found.place == 1:
        return (
            f"{text}. {found.largest_edited}, edited, has the largest {value_name} of all {found.sublayers} sublayers."
        )
    return (
        f"{text}. {them}, {found.largest_edited}, is number {found.place} of {found.sublayers} sublayers; "
        f"the largest of all is {found.largest} with {_percent(found.largest_share)}."
    )


def blocks(layers: Sequence[int]) -> str:
    """Layers in words: "layer 5", "layers 6–10", "layers 3, 5, 8"."""
    layers = sorted(layers)
    if len(layers) == 1:
        return f"layer {layers[0]}"
    if layers == list(range(layers[0], layers[-1] + 1)):
        return f"layers {layers[0]}–{layers[-1]}"
    return f"layers {', '.join(map(str, layers))}"


def _percent(share: float) -> str:
    told = f"{100 * share:.1f} %" if abs(share) >= 0.02 else f"{100 * share:.2f} %"
    return minus(told)


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
