"""What runs had measured at a checkpoint, looked up in a frame of scores. Knows no streamlit."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd


class AtCheckpoints:
    """Values of a frame by run, metric and edits, sorted once: looked up in the frame, each would take milliseconds.

    Args:
        frame: columns run, edits, metric, value.
    """

    def __init__(self, frame: pd.DataFrame):
        there = frame.dropna(subset=["value"]).sort_values("edits", kind="stable")
        self._edits, self._values = there["edits"].to_numpy(), there["value"].to_numpy()
        self._rows = there.groupby([there["run"].astype(str), there["metric"].astype(str)], sort=False).indices

    def last(self, run: str, metric: str, at: float = math.inf) -> tuple[float | None, int | None]:
        """A value at the last checkpoint of a run that is not behind `at`, and which one that is.

        Args:
            run: id.
            metric: name.
            at: edits.
        """
        rows = self._rows.get((run, metric), ())
        edits = self._edits[rows] if len(rows) else self._edits[:0]
        n_before = int(np.searchsorted(edits, at, side="right"))
        if not n_before:
            return None, None
        return float(self._values[rows[n_before - 1]]), int(edits[n_before - 1])
