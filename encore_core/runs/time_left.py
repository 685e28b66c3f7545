"""How long a run will still take: editing at its present speed, and measuring at the checkpoints that are to come.

    ahead = Ahead(ends=(20, 40), checkpoints=(0, 20, 40), share_cap=0.25)
    seconds_left(ahead, Standing(done=20, ...))

What will be measured follows the rule of `measuring`: between the first checkpoint and the last, a part is left out
where it would exceed its share of the time spent editing. A part is taken to cost what it cost last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

UNCAPPED = ("norms",)
"""Parts that are measured at every checkpoint."""

OVERRUN = 0.2
"""What takes longer than it took last is taken to need this share of its time again, so that it never reads zero."""


@dataclass(frozen=True)
class Ahead:
    """What a run has to do.

    Attributes:
        ends: of its batches, in edits; the last is the number of all edits.
        checkpoints: edits at which it is measured.
        share_cap: of the time spent editing, how much measuring may take between the first checkpoint and the last.
    """

    ends: Sequence[int]
    checkpoints: Sequence[int]
    share_cap: float | None


@dataclass(frozen=True)
class Standing:
    """How far a run has come.

    Attributes:
        done: edits made.
        batch_share: of the batch under way, from 0 to 1.
        fact_seconds: an edit takes; None while that is not known.
        editing_seconds: spent so far.
        spent: part → seconds at each checkpoint at which it was measured, in order.
        measured: checkpoints that are behind.
        at_checkpoint: part → seconds spent on it at the checkpoint under way; empty when none is.
        part: the one of them that is under way.
    """

    done: int
    batch_share: float
    fact_seconds: float | None
    editing_seconds: float
    spent: Mapping[str, Sequence[float]]
    measured: frozenset[int]
    at_checkpoint: Mapping[str, float] = field(default_factory=dict)
    part: str | None = None


def batch_share(done: int, total: int, step: int, n_steps: int) -> float:
    """How much of a batch's search for targets is done: facts that have theirs, and the steps that the others took."""
    finished = done / max(1, total)
    return finished + (1 - finished) * min(1.0, step / max(1, n_steps))


def facts_left(ahead: Ahead, at: Standing) -> float:
    """Edits still to be made; a batch under way counts by its share."""
    batch = next((end for end in ahead.ends if end > at.done), at.done) - at.done
    return ahead.ends[-1] - at.done - at.batch_share * batch


def seconds_left(ahead: Ahead, at: Standing) -> float | None:
    """Seconds until the run is done; None while nothing is known of what an edit or a checkpoint takes.

    Args:
        ahead: what is to be done.
        at: where it stands.
    """
    to_edit = facts_left(ahead, at)
    if (to_edit and at.fact_seconds is None) or not at.spent:
        return None
    speed = at.fact_seconds or 0.0
    return to_edit * speed + _measuring_left(ahead, at, speed)


def _measuring_left(ahead: Ahead, at: Standing, speed: float) -> float:
    """Seconds of the checkpoints that are to come, and of the rest of the one under way."""
    n_edits, total = ahead.ends[-1], 0.0
    before = {part: list(seconds) for part, seconds in at.spent.items()}
    capped_parts = max(1, len([part for part in before if part not in UNCAPPED]))
    for edits in ahead.checkpoints:
        if edits < at.done or edits in at.measured:
            continue
        editing = at.editing_seconds + (edits - at.done) * speed
        share = None
        if ahead.share_cap is not None and edits not in (0, n_edits):
            share = ahead.share_cap * editing / capped_parts
        under_way = edits == at.done and bool(at.at_checkpoint)
        for part, seconds in before.items():
            if share is not None and part not in UNCAPPED and sum(seconds[1:]) + seconds[-1] > share:
                continue
            cost = seconds[-1]
            total += _rest(part, cost, at) if under_way else cost
            seconds.append(cost)
    return total


def _rest(part: str, cost: float, at: Standing) -> float:
    """Seconds that a part of the checkpoint under way still needs."""
    if part not in at.at_checkpoint:
        return cost
    taken = at.at_checkpoint[part]
    return max(cost - taken, OVERRUN * taken) if part == at.part else 0.0
