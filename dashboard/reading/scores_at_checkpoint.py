"""What runs measured up to a checkpoint, looked up in a frame of scores. Knows no streamlit."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd


class Score(NamedTuple):
    """A value at a checkpoint, with its 95 % interval over n facts or tests; None where there is none."""

    value: float
    edits: int
    n: int | None
    low: float | None
    high: float | None


class AtCheckpoints:
    """Values of a frame by run, metric and edits, sorted once: a look-up in the frame would take milliseconds each.

    Args:
        frame: columns run, edits, metric, value; n, low and high where there are any.
    """

    def __init__(self, frame: pd.DataFrame):
        there = frame.dropna(subset=["value"]).sort_values("edits", kind="stable")
        self._edits, self._values = there["edits"].to_numpy(), there["value"].to_numpy()
        self._sure = there.reindex(columns=["n", "low", "high"]).to_numpy(dtype=float)
        self._rows = there.groupby([there["run"].astype(str), there["metric"].astype(str)], sort=False).indices

    def last(self, run: str, metric: str, at: float = math.inf) -> tuple[float | None, int | None]:
        """The value at a run's last checkpoint up to `at`, and that checkpoint; (None, None) where there is none.

        Args:
            run: id.
            metric: name.
            at: edits.
        """
        found = self.score(run, metric, at)
        return (None, None) if found is None else (found.value, found.edits)

    def score(self, run: str, metric: str, at: float = math.inf) -> Score | None:
        """The same with its interval; None where there is none."""
        rows = self._rows.get((run, metric), ())
        edits = self._edits[rows] if len(rows) else self._edits[:0]
        n_before = int(np.searchsorted(edits, at, side="right"))
        if not n_before:
            return None
        row = rows[n_before - 1]
        n, low, high = (None if math.isnan(one) else one for one in self._sure[row].tolist())
        return Score(float(self._values[row]), int(edits[n_before - 1]), None if n is None else int(n), low, high)
