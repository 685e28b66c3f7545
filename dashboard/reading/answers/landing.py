"""Where does the norm grow? In which layer most, and whether beyond the edited ones. Norms are exact: no intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from dashboard.charts.runs import Line
from dashboard.reading import findings
from dashboard.reading.answers import published
from dashboard.reading.answers.answer import FEW_EDITS, Answer

HARDLY = 0.01
"""Growth by less than a hundredth of the norm."""


def answer(norms: pd.DataFrame, lines: Sequence[Line], at: int, damage: str = "") -> Answer:
    """Where the norm grows.

    Args:
        norms: columns run, edits, layer, ratio.
        lines: the runs.
        at: edits; for a run without such a checkpoint, the last one before it.
        damage: whether growth orders the damage, see `order.answer`.
    """
    grown = [one for one in (findings.grown(norms, line, at) for line in lines) if one is not None]
    if not grown:
        return Answer("nothing edited", findings.growth(norms, lines, at))
    most = max(one.edits for one in grown)
    largest = max((one.ratio for one in grown), key=lambda ratio: math.inf if math.isnan(ratio) else ratio)
    if any(not abs(one.moved) < findings.STILL for one in grown):
        outcome, first = "elsewhere, too", "Not in the edited layers alone."
    elif abs(largest - 1) < HARDLY:
        outcome = "too few edits" if most < FEW_EDITS else "hardly anywhere"
        first = "Too few edits to tell." if most < FEW_EDITS else "Hardly anywhere."
    else:
        outcome, first = "edited layers", ""
    parts = (first, findings.growth(norms, lines, at), damage, findings.unedited(grown))
    return Answer(outcome, " ".join(part for part in parts if part), published.landing(outcome))
