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


SAID = "already said"
"""A fact was skipped because the model says it already."""

TOO_FAR = "too far"
"""A fact was not edited because its target is out of proportion, see `norm_anchor`."""

REFUSED = "refused"
"""A fact was not edited because its batch would have changed a matrix by more than `most_change`."""

NOT_EDITED = (SAID, TOO_FAR, REFUSED)

BY_GRADIENT = "gradient"
"""A fact was edited without a target, see `gradient_rule` and `fine_tuning`."""


@dataclass(frozen=True)
class EditedFact:
    """What a batch did to one fact.

    Attributes:
        fact: the fact.
        target: its target; None when the fact was not edited, or its method has none.
        probability_before: of the new answer (geometric mean per token) on the base model; None when not measured.
        probability_after: the same right after its batch.
        probability_bare: as after, but without the model's start token, as a program sees it that puts none in front
            of the prompt. None for a model without a start token.
        outcome: without a target, why: one of `NOT_EDITED`, or `BY_GRADIENT`.
        passes: gradient steps of a fact that was edited without a target.
    """

    fact: Fact
    target: Target | None
    probability_before: float | None
    probability_after: float | None
    probability_bare: float | None = None
    outcome: str = SAID
    passes: int = 1

    @property
    def is_edited(self) -> bool:
        """Whether the fact was edited, and not skipped."""
        return self.target is not None or self.outcome == BY_GRADIENT

    @property
    def steps(self) -> int:
        """Gradient steps taken; 0 for a skipped fact."""
        return self.target.steps if self.target else self.passes * self.is_edited

    @property
    def stopped(self) -> str:
        """Why the search stopped, see `Target`."""
        return self.target.stopped if self.target else self.outcome


@dataclass(frozen=True)
class AnswerChange:
    """How probable an answer is, before and after a retraction (geometric mean per token); None where not measured.

    Attributes:
        text: the answer.
        loaded: on the unedited model.
        before, after: with the session's edits, before and after the retraction.
    """

    text: str
    loaded: float | None = None
    before: float | None = None
    after: float | None = None


@dataclass(frozen=True)
class RetractedFact:
    """What taking one edit back did.

    Attributes:
        fact: the fact that was edited.
        batch: index in the history of the batch that edited it.
        new: its new answer, which is to be forgotten.
        own: the unedited model's own answer: the fact's true one, else what the model says; None where not measured.
        is_back: whether the model says again what the unedited one says, by greedy decoding of as many tokens as the
            new answer has; None where not measured.
    """

    fact: Fact
    batch: int
    new: AnswerChange
    own: AnswerChange | None = None
    is_back: bool | None = None


@dataclass(frozen=True)
class OtherEdits:
    """What a retraction did to the new answers of the edits that stay.

    Attributes:
        n: how many were measured.
        before, after: mean probability of their new answers, before and after the retraction.
        largest: the greatest change of one of them, without its sign.
    """

    n: int
    before: float
    after: float
    largest: float


@dataclass(frozen=True)
class BatchReport:
    """What one batch did, or a retraction, which edits nothing.

    Attributes:
        edited: one entry per fact of the batch, in order; empty for a retraction.
        seconds: by phase: "targets", "keys", "update", "measuring".
        norms: by edited layer, the Frobenius norms of the matrix before and after the batch.
        notices: things the user should know, one line each.
        retracted: one entry per fact taken back; empty for a batch.
        others: what the retraction did to the other edits; None for a batch, and where nothing was measured.
    """

    edited: tuple[EditedFact, ...]
    seconds: dict[str, float]
    norms: dict[int, tuple[float, float]]
    notices: tuple[str, ...] = ()
    retracted: tuple[RetractedFact, ...] = ()
    others: OtherEdits | None = None


def refused_batch(facts: Sequence[Fact], why: str, seconds: float) -> BatchReport:
    """The report of a batch that was not edited.

    Args:
        facts: the batch.
        why: a line for people.
        seconds: spent on finding out.
    """
    edited = tuple(EditedFact(fact, None, None, None, outcome=REFUSED) for fact in facts)
    return BatchReport(edited, {"targets": seconds, "keys": 0.0, "update": 0.0}, {}, (why,))


Place = tuple[int, int]
"""An edit in a history: its batch, and its number among the facts that this batch edited, both from 0."""


@dataclass(frozen=True)
class AppliedBatch:
    """An entry of a session's history: a batch, or a retraction.

    Attributes:
        report: what it did.
        updates: by layer, the update for its facts as thin factors. A retraction has one only if facts had to be set
            back to their first answers (see `retraction`), and it does not join what is preserved.
        ended: earlier edits that were taken out of the matrices and of P before this entry's own facts were solved for:
            those retracted, or overwritten by it.
        removed: by layer, the update that took them out (see `removal`); empty if there were none.
    """

    report: BatchReport
    updates: dict[int, LowRankUpdate] = field(repr=False)
    ended: tuple[Place, ...] = ()
    removed: dict[int, LowRankUpdate] = field(default_factory=dict, repr=False)

    @property
    def is_retraction(self) -> bool:
        return bool(self.report.retracted)

    @property
    def all_updates(self) -> list[dict[int, LowRankUpdate]]:
        """By layer, what is added to the matrices, in this order."""
        return [updates for updates in (self.removed, self.updates) if updates]


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
