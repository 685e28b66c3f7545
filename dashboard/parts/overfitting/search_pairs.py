"""Searches for targets with and without MPES: which run is which arm, and where a search ended."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from dashboard.charts.overfitting import Arm
from dashboard.elements import widgets
from dashboard.reading import mpes_pairs
from dashboard.reading.mpes_pairs import Pair

# Why an optimisation stopped, in words; see `encore_core.editing.targets.Target`.
STOPPED = {
    "loss": "the loss fell below 0.05",
    "mpes": "the answer had become the most probable one in the contexts that count",
    "steps": "the maximum was reached ({evaluations}, the start included)",
}

WITHOUT, STOPPING = Arm("without", "without MPES", False), Arm("stopped", "with MPES", True)
KNOWN = Arm("known", "known by itself", None)
LOSS_COLUMNS = ("loss", "nll", "kl", "decay", "probability")


def arms_of(pair: Pair) -> dict[str, Arm]:
    """Run id → its arm."""
    return {run.id: STOPPING if mpes_pairs.stops_early(run) else WITHOUT for run in pair.runs}


def with_arms(frame: pd.DataFrame, arms: Mapping[str, Arm]) -> pd.DataFrame:
    """A frame of some runs, with the arm of each in an additional column."""
    return frame.assign(arm=frame["run"].map({run: arm.key for run, arm in arms.items()}))


def fact_tiles(trajectory: pd.DataFrame, stopped: Mapping[str, str]) -> None:
    """Where each arm ended: probability, steps, and why.

    Args:
        trajectory: arm, step, probability.
        stopped: arm → why it stopped, as the engine calls it.
    """
    tiles = []
    for arm in (WITHOUT, STOPPING):
        part = trajectory[trajectory["arm"] == arm.key]
        if len(part):
            last = part.loc[part["step"].idxmax()]
            n = int(last["step"])
            why = STOPPED.get(stopped.get(arm.key, ""), "").format(evaluations=n + 1)
            remark = f"p of the answer after {n} step{'s' * (n != 1)}: {why}"
            tiles.append((arm.name, f"{last['probability']:.2f}", remark, "mpes" if arm.mpes else "no_mpes"))
    widgets.tiles(tiles)
