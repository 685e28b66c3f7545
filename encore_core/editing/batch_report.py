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
        step: index of the current group's last evaluation of the loss (targets only).
        loss: the group's mean loss (targets only).
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
        target: its target; None when the fact was skipped because the model says it already.
        probability_before: of the new answer (geometric mean per token) on the base model; None when not measured.
        probability_after: the same right after its batch.
        probability_bare: as after, but without the model's start token, as a program sees it that puts none in front
            of the prompt. None for a model without a start token.
    """

    fact: Fact
    target: Target | None
    probability_before: float | None
    probability_after: float | None
    probability_bare: float | None = None

    @property
    def steps(self) -> int:
        """Gradient steps taken; 0 for a skipped fact."""
        return self.target.steps if self.target else 0

    @property
    def stopped(self) -> str:
        """Why the search stopped, see `Target`."""
        return self.target.stopped if self.target else "already said"


@dataclass(frozen=True)
class BatchReport:
    """What one batch did.

    Attributes:
        edited: one entry per fact of the batch, in order.
        seconds: by phase: "targets", "keys", "update", "measuring".
        norms: by edited layer, the Frobenius norms of the matrix before and after the batch.
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
    """Notices for the user about skipped facts and about subjects at the start of a text, one line each."""
    notices = [
        f"Skipped: the model already says {quoted(joined(fact.text, fact.target_new, fact.join))}." for fact in skipped
    ]
    for fact in on_sink(lm, chosen):
        notices.append(_of_sink(fact))
        log.warning("%s", notices[-1])  # now, because the report comes only after the edit
    return notices


def _of_sink(fact: Fact) -> str:
    return (
        f"{quoted(fact.subject)} is the first token of {quoted(fact.text)}. This model reads next to nothing of the "
        "first token of a text, so it will hardly say the new answer unless something comes before the subject; load "
        "it with a start token (--start-token), or put other words before the subject."
    )
