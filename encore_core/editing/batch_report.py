"""What a batch reports: how far it is, and what it did to its facts and matrices."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from encore_core.editing.targets import Target
from encore_core.editing.update_rule import LowRankUpdate
from encore_core.errors import quoted
from encore_core.facts import Fact
from encore_core.facts.joining import joined
from encore_core.forward.prompts import on_sink
from encore_core.models.editable import EditableModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EditProgress:
    """How far a batch is.

    Attributes:
        phase: "targets" or "update".
        done, total: facts finished, or layers edited.
        step: steps of the current group of facts (targets only).
        loss: its mean loss (targets only).
    """

    phase: Literal["targets", "update"]
    done: int
    total: int
    step: int = 0
    loss: float | None = None


OnProgress = Callable[[EditProgress], None]


@dataclass(frozen=True)
class EditedFact:
    """What a batch did to one fact.

    Attributes:
        fact: the fact.
        target: how its target was found; None when the fact was skipped because the model says it already.
        probability_before: of the new answer (geometric mean per token) on the base model.
        probability_after: the same right after its batch.
        probability_bare: as after, without the model's start token: what a program gets that puts none in front of the
            prompt. None for a model without a start token.
    """

    fact: Fact
    target: Target | None
    probability_before: float | None
    probability_after: float | None
    probability_bare: float | None = None

    @property
    def steps(self) -> int:
        return self.target.steps if self.target else 0

    @property
    def stopped(self) -> str:
        return self.target.stopped if self.target else "already said"


@dataclass(frozen=True)
class BatchReport:
    """What one batch did.

    Attributes:
        edited: one entry a fact of the batch, in order.
        seconds: by phase: "targets", "keys", "update", "measuring".
        norms: per edited layer the Frobenius norm of the matrix before and after the batch.
        notices: things the user should know, one line each.
    """

    edited: tuple[EditedFact, ...]
    seconds: dict[str, float]
    norms: dict[int, tuple[float, float]]
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class AppliedBatch:
    """An entry of a session's history: the report, and the update of every layer as thin factors."""

    report: BatchReport
    updates: dict[int, LowRankUpdate] = field(repr=False)


def notices_of(lm: EditableModel, chosen: Sequence[Fact], skipped: Sequence[Fact]) -> list[str]:
    """What the user should know of the facts that are edited and of those that are not, one line each."""
    notices = [
        f"Skipped: the model already says {quoted(joined(fact.text, fact.target_new, fact.join))}." for fact in skipped
    ]
    for fact in on_sink(lm, chosen):
        notices.append(_of_sink(fact))
        log.warning("%s", notices[-1])  # before the edit, for whoever waits for it
    return notices


def _of_sink(fact: Fact) -> str:
    return (
        f"{quoted(fact.subject)} is the first token of {quoted(fact.text)}. This model reads next to nothing of the "
        "first token of a text, so it will hardly say the new answer when asked so, only where something stands in "
        "front of it; load it with a start token (--start-token), or put other words before the subject."
    )
