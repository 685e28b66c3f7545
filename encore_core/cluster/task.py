"""A run on its way: what its driver keeps of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from encore_core.cluster.incoming import Incoming
from encore_core.runs.rows import Claim


@dataclass
class Task:
    """A run on its way.

    Attributes:
        claim: the driver's right to it.
        incoming: what comes from it.
        stream: Ray's generator of its messages.
        detail, done: what it last said.
        node: host it runs on; None before it has begun.
        asked: what it was asked to do, "cancel" or "interrupt".
        losses: times it was lost, after it had begun, since it last brought a state.
        unbegun: when it was first lost before it had begun, since it last began; None for never.
        due: when it is to be started again, if it is not under way; by the clock `time.monotonic`.
        is_done: whether its result has been taken in, so that it is nobody's any more; its last words may still come.
    """

    claim: Claim
    incoming: Incoming
    stream: Any = None
    detail: dict[str, Any] = field(default_factory=dict)
    done: int = 0
    node: str | None = None
    asked: str | None = None
    losses: int = 0
    unbegun: float | None = None
    due: float = 0.0
    is_done: bool = False
