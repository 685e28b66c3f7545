"""After how many edits a measure crosses a line for good: an interval, because it is looked at at checkpoints alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from dashboard.reading.answers.answer import listed


@dataclass(frozen=True)
class Crossing:
    """Where a measure crosses a line and stays beyond it.

    Attributes:
        reached: edits at the last checkpoint that has a value.
        after, by: it crosses after more than `after` edits and by `by` at the latest; both None where it does not
            cross, or came back.
        value: at the last checkpoint.
        is_sure: False where the 95 % intervals at the checkpoints beyond the line still hold the line itself.
        came_back: whether it has been beyond the line and is not any more.
    """

    reached: int
    after: int | None
    by: int | None
    value: float
    is_sure: bool = True
    came_back: bool = False

    @property
    def crosses(self) -> bool:
        """Whether it is beyond the line, by more than chance."""
        return self.by is not None and self.is_sure

    @property
    def span(self) -> tuple[float, float]:
        """Edits between which it crosses; up to infinity where it has not."""
        if self.by is None or self.after is None:
            return float(self.reached), math.inf
        return float(self.after), float(self.by) if self.is_sure else math.inf

    def outlasts(self, other: Crossing) -> bool:
        """Whether it certainly crosses later than another one."""
        return self.span[0] >= other.span[1]


def crossing(frame: pd.DataFrame, line: float, *, falls: bool = False) -> Crossing | None:
    """Where a measure of one run crosses a line.

    Args:
        frame: edits, value; low and high where values have 95 % intervals.
        line: the value that is not to be reached.
        falls: whether lower is worse; higher by default.

    Returns:
        None where there is no value after an edit.
    """
    if not falls:
        # A model that gives no number any more is beyond every line.
        frame = frame.assign(value=frame["value"].where(frame["value"].notna() | (frame["edits"] == 0), math.inf))
    there = frame.dropna(subset=["value"]).sort_values("edits", kind="stable")
    if there.empty or not there["edits"].max():
        return None
    edits = [int(at) for at in there["edits"]]
    values = [float(value) for value in there["value"]]
    ends = {name: _filled(there, name, values) for name in ("low", "high")}
    beyond = [_is_beyond(value, line, falls) for value in values]
    if not beyond[-1]:
        return Crossing(edits[-1], None, None, values[-1], came_back=any(beyond))
    # The end of an interval that is nearest to the good side, and the one nearest to the bad side.
    nearest, farthest = (ends["high"], ends["low"]) if falls else (ends["low"], ends["high"])
    surely_beyond = [_is_beyond(value, line, falls) for value in nearest]
    surely_not = [not _is_beyond(value, line, falls) for value in farthest]
    first = beyond.index(True)
    after = max((edits[place] for place in range(first) if surely_not[place]), default=0)
    settled = _settled(surely_beyond)
    if settled is None:
        by = edits[_settled(beyond) or 0]
        return Crossing(edits[-1], after, by, values[-1], is_sure=False)
    return Crossing(edits[-1], after, edits[settled], values[-1])


def _filled(frame: pd.DataFrame, name: str, values: Sequence[float]) -> list[float]:
    """One end of the intervals; the value itself where there is no interval."""
    if name not in frame:
        return list(values)
    ends = frame[name].astype(float)
    return [value if math.isnan(end) else float(end) for end, value in zip(ends, values, strict=True)]


def _is_beyond(value: float, line: float, falls: bool) -> bool:
    return value <= line if falls else value >= line


def _settled(beyond: Sequence[bool]) -> int | None:
    """The first place from which all are beyond; None where the last one is not."""
    place = len(beyond)
    while place and beyond[place - 1]:
        place -= 1
    return place if place < len(beyond) else None


def span_words(found: Crossing | None) -> str:
    """Where it crosses, for a table: "1,000 to 2,000", "not within 5,000", "not measured"."""
    if found is None:
        return "not measured"
    if found.by is None:
        back = ", though it had been beyond the threshold" if found.came_back else ""
        return f"not within {found.reached:,}{back}"
    told = f"{found.after:,} to {found.by:,}"
    return told if found.is_sure else f"perhaps {told} (not significant)"


def spans(found: Sequence[tuple[str, Crossing]]) -> str:
    """The same within a sentence, of runs that cross: "between 1,000 and 2,000 edits with A and … with B"."""
    parts = []
    for name, one in found:
        edits = "" if parts else " edits"
        parts.append(f"between {one.after:,} and {one.by:,}{edits} with {name}")
    return listed(parts)
