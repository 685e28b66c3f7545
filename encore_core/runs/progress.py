"""What a run tells of its progress while it goes on: facts within the batch, speed, and the time that is left."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from encore_core.editing.batch_report import EditProgress
from encore_core.runs.time_left import Ahead, Standing, batch_share, seconds_left

RECENT_BATCHES = 10
"""Batches whose median is the speed: one during which the machine was busy does not count."""

FIRST_SPEED_AT = 0.15
"""The share of the first batch that must be done before its time tells a speed."""


class Progress:
    """Keeps what the time left follows from. Its thread calls the methods; `detail` may be called from another.

    Args:
        ahead: what the run has to do.
        n_steps: of the search for a target, at most.
        clock: tells the time in seconds.
    """

    def __init__(self, ahead: Ahead, n_steps: int, clock: Callable[[], float] = time.perf_counter):
        self.ahead, self.n_steps, self.clock = ahead, n_steps, clock
        self.done, self.editing_seconds = 0, 0.0
        self.spent: dict[str, list[float]] = {}
        self.measured: set[int] = set()
        self._recent: deque[float] = deque(maxlen=RECENT_BATCHES)
        self._batch_began: float | None = None
        self._share = 0.0
        self._parts: dict[str, float] = {}
        self._part: tuple[str, float] | None = None

    def resumed(
        self, done: int, editing_seconds: float, spent: Mapping[str, Sequence[float]], measured: Iterable[int]
    ) -> None:
        """Take over what the store knows of a run that goes on."""
        self.done, self.editing_seconds = done, editing_seconds
        self.spent = {part: list(seconds) for part, seconds in spent.items()}
        self.measured = set(measured)

    # -- editing -------------------------------------------------------------------------------------------------------

    def batch_begins(self) -> None:
        self._batch_began, self._share = self.clock(), 0.0

    def within_batch(self, told: EditProgress) -> None:
        """Take note of a step."""
        if told.phase == "targets":
            share = batch_share(told.done, told.total, told.step, self.n_steps)
        else:
            share = 1.0
        self._share = max(self._share, share)

    def batch_ends(self, done: int, editing_seconds: float) -> float:
        """Take note of the end of a batch, which is recorded by now. Returns its seconds per fact."""
        seconds = self.clock() - self._batch_began
        per_fact = seconds / (done - self.done)
        self._recent.append(per_fact)
        self.done, self.editing_seconds, self._batch_began, self._share = done, editing_seconds, None, 0.0
        return per_fact

    # -- measuring -----------------------------------------------------------------------------------------------------

    def part_begins(self, part: str) -> None:
        """Take note of a part of measuring, or that it goes on."""
        if self._part is not None and self._part[0] == part:
            return
        self._end_part()
        self._part = (part, self.clock())

    def checkpoint_ends(self, seconds: Mapping[str, float]) -> None:
        """Take note of a checkpoint that is recorded by now."""
        for part, taken in seconds.items():
            self.spent.setdefault(part, []).append(taken)
        self.measured.add(self.done)
        self._parts, self._part = {}, None

    def _end_part(self) -> None:
        if self._part is not None:
            part, began = self._part
            self._parts[part] = self._parts.get(part, 0.0) + self.clock() - began

    # -- told ----------------------------------------------------------------------------------------------------------

    @property
    def fact_seconds(self) -> float | None:
        """Seconds an edit takes: the median of recent batches; in the first batch what its steps let expect."""
        if self._recent:
            return statistics.median(self._recent)
        began, share = self._batch_began, self._share
        if began is None or share < FIRST_SPEED_AT:
            return None
        size = next(end for end in self.ahead.ends if end > self.done) - self.done
        return (self.clock() - began) / (share * size)

    def detail(self) -> dict[str, Any]:
        """What is told at every sign of life: share of the batch, speed, time left; None for what is not known."""
        part, parts = self._part, dict(self._parts)
        if part is not None:
            parts[part[0]] = parts.get(part[0], 0.0) + self.clock() - part[1]
        standing = Standing(
            done=self.done,
            batch_share=self._share,
            fact_seconds=self.fact_seconds,
            editing_seconds=self.editing_seconds,
            spent={name: list(seconds) for name, seconds in dict(self.spent).items()},
            measured=frozenset(self.measured),
            at_checkpoint=parts,
            part=part[0] if part is not None else None,
        )
        left, speed = seconds_left(self.ahead, standing), standing.fact_seconds
        return {
            "batch_share": round(self._share, 3),
            "seconds_per_edit": None if speed is None else round(speed, 4),
            "seconds_left": None if left is None else round(left, 1),
        }
