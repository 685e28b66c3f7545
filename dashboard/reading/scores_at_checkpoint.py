"""What runs measured up to a checkpoint, looked up in a frame of scores. Knows no streamlit."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd


class AtCheckpoints:
    """Values of a frame by run, metric and edits, sorted once: a look-up in the frame would take milliseconds each.

    Args:
        frame: columns run, edits, metric, value.
    """

    def __init__(self, frame: pd.DataFrame):
        there = frame.dropna(subset=["value"]).sort_values("edits", kind="stable")
        self._edits, self._values = there["edits"].to_numpy(), there["value"].to_numpy()
        self._rows = there.groupby([there["run"].astype(str), there["metric"].astype(str)], sort=False).indices

    def last(self, run: str, metric: str, at: float = math.inf) -> tuple[float | None, int | None]:
        """The value at a run's last checkpoint up to `at`, and that checkpoint; (None, None) where there is none.

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
