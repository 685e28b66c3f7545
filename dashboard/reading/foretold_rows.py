"""Foretold damage as rows and words: of runs, layer by layer, and of a fact at each block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import quantiles

import pandas as pd

from encore_core.editing.layer_costs import BlockCost
from encore_core.words import decimal

TOTAL, MEASURED = "foretold_damage", "perplexity"
COLUMNS = ["run", "edits", "kind", "layer", "value"]


def of_runs(measures: pd.DataFrame) -> pd.DataFrame:
    """What is foretold of each run and layer, and the logarithm of its perplexity ratio, in nats per token.

    Args:
        measures: the series `measures`.

    Returns:
        columns as for `charts.foretold.over_edits`; only runs in which damage was foretold.
    """
    runs = set(measures.loc[measures["metric"] == TOTAL, "run"])
    rows = []
    for run, part in measures[measures["run"].isin(runs)].groupby("run", sort=False):
        texts = part[part["metric"] == MEASURED].set_index("edits")["value"]
        base = texts.get(0, math.nan)
        for edits, metric, value in part[["edits", "metric", "value"]].itertuples(index=False):
            if metric == TOTAL:
                rows.append((run, edits, "sum", None, value))
            elif metric.startswith(f"{TOTAL}."):
                rows.append((run, edits, "layer", int(metric.rpartition(".")[2]), value))
            elif metric == MEASURED and base > 0 and value > 0:
                rows.append((run, edits, "measured", None, math.log(value / base)))
    return pd.DataFrame(rows, columns=COLUMNS).astype({"layer": "Int64"})


def what_costs_most(frame: pd.DataFrame, names: dict[str, str]) -> list[str]:
    """A sentence per run: which layer's change costs most, and what was measured beside what was foretold.

    Args:
        frame: from `of_runs`.
        names: run → what it is called.
    """
    told = []
    for run, part in frame.groupby("run", sort=False):
        # Measuring may have left the foretold damage out at the last checkpoint.
        last = part.loc[part["kind"] == "sum", "edits"].max()
        now = part[part["edits"] == last]
        by_layer = now[now["kind"] == "layer"].set_index("layer")["value"]
        total = float(now.loc[now["kind"] == "sum", "value"].iloc[0])
        if not last or not total > 0 or by_layer.empty:
            continue
        words = (
            f"{names[run]}, after {last:,} edits: the change of layer {by_layer.idxmax()} costs most, "
            f"{100 * by_layer.max() / total:.0f} % of {decimal(total)} nats per token, estimated"
        )
        measured = now.loc[now["kind"] == "measured", "value"]
        beside = f"; log perplexity ratio on the fixed text: {decimal(measured.iloc[0])}" if len(measured) else ""
        told.append(f"{words}{beside}.")
    return told


def of_blocks(costs: Sequence[BlockCost], edited: Sequence[int]) -> pd.DataFrame:
    """What facts cost at each block.

    Args:
        costs: from `layer_costs`.
        edited: the blocks that the method's row edits.

    Returns:
        columns as for `charts.foretold.by_block`.
    """
    rows = []
    for cost in costs:
        low, middle, high = quantiles(cost.damage, n=4) if len(cost.damage) > 1 else (cost.damage[0],) * 3
        steps = sorted(cost.steps)[len(cost.steps) // 2]
        rows.append((cost.layer, middle, low, high, steps, 100 * cost.share_reached, cost.layer in edited))
    return pd.DataFrame(rows, columns=["layer", "damage", "low", "high", "steps", "reached", "edited"])
