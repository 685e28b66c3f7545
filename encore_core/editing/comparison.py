"""The same facts edited with several methods, each on the unedited model, side by side.

    comparison = compare_edits(lm, facts, ["MEMIT", "AlphaEdit", "ENCORE"])
    for side in comparison.sides:
        print(side.label, side.reports, side.session.norms())

Every method sees the same facts in the same order, with the same sampled prefixes and statistics. Before any edit, the
search for a target takes the same path for all methods with equal hyper-parameters; they differ in when they stop. So
one search serves them all in the first batch (see `shared_search`). From the second batch on, the models differ,
and so do the targets.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from encore_core.editing.batch import batched
from encore_core.editing.batch_report import BatchReport, EditProgress, OnProgress
from encore_core.editing.session import EditSession
from encore_core.editing.shared_search import SharedSearch
from encore_core.errors import InputError, quoted
from encore_core.facts import Fact, check_batches
from encore_core.methods import check_names, find_method
from encore_core.models.editable import EditableModel

MOST_SIDES = 8
"""Methods in one comparison: each holds a session's memory."""

OnSideProgress = Callable[[str, EditProgress], None]
"""`on_progress(label, progress)`: what is being done, and for which side."""


@dataclass(frozen=True)
class Arm:
    """A method with its settings, as one side of a comparison.

    Attributes:
        method: name of a row in `methods.METHODS`.
        settings: overrides, see `methods.SETTABLE`.
        label: what the side is called; by default the method's name, with the overrides where it is there twice.
    """

    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""


@dataclass(frozen=True)
class Side:
    """What one method did.

    Attributes:
        label: as in the comparison.
        session: with the edits; None where the method failed before it had one.
        reports: one per batch that was applied.
        seconds: that it took, with the search if it was the first to need one.
        error: why it failed; None where it did not. The batches before stay in `session`.
    """

    label: str
    session: EditSession | None = field(repr=False)
    reports: tuple[BatchReport, ...]
    seconds: float
    error: str | None = None


@dataclass(frozen=True)
class Comparison:
    """All sides, in the order asked for, and the seconds that they took together."""

    sides: tuple[Side, ...]
    seconds: float


def arms_of(methods: Sequence[str | Arm]) -> tuple[Arm, ...]:
    """The sides of a comparison, each with a label of its own.

    Args:
        methods: names, or arms.

    Raises:
        InputError: for no method or too many, an unknown one, unknown settings, or the same side twice.
    """
    arms = [Arm(one) if isinstance(one, str) else one for one in methods]
    if not 1 <= len(arms) <= MOST_SIDES:
        raise InputError(f"{len(arms)} methods are to be compared; give 1 to {MOST_SIDES}.")
    for arm in arms:
        find_method(arm.method)
        check_names(arm.settings)
    names = [arm.method for arm in arms]
    labelled = tuple(replace(arm, label=arm.label or _label(arm, names.count(arm.method) > 1)) for arm in arms)
    labels = [arm.label for arm in labelled]
    for label in labels:
        if labels.count(label) > 1:
            raise InputError(f"{quoted(label)} is there twice; give other settings or another label for one of them.")
    return labelled


def _label(arm: Arm, is_twice: bool) -> str:
    said = ", ".join(f"{name} {value}" for name, value in arm.settings.items())
    return f"{arm.method}, {said}" if is_twice and said else arm.method


def compare_edits(
    lm: EditableModel,
    facts: Sequence[Fact],
    methods: Sequence[str | Arm],
    *,
    batch_size: int = 100,
    seed: int = 0,
    known: Literal["refuse", "skip", "edit"] = "refuse",
    statistics_text: Path | None = None,
    on_progress: OnSideProgress | None = None,
) -> Comparison:
    """Edit the same facts with each of several methods. The model is as before afterwards; each side has a session.

    Args:
        lm: the model.
        facts: what is edited, in batches of `batch_size`.
        methods: names, or `Arm`s for a method with other settings.
        batch_size: facts per batch.
        seed: of the sampled prefixes.
        known, statistics_text: as for `EditSession`.
        on_progress: called after steps and layers.

    Raises:
        InputError: as `arms_of`; for facts that cannot be edited; or why all methods failed, if they all did.
    """
    began = time.perf_counter()
    sides = tuple(
        edit_with_each(
            lm, facts, methods, batch_size=batch_size, seed=seed, known=known, statistics_text=statistics_text,
            on_progress=on_progress,
        )
    )  # fmt: skip
    if all(side.error is not None for side in sides):
        raise InputError(sides[0].error)
    return Comparison(sides, time.perf_counter() - began)


def edit_with_each(
    lm: EditableModel,
    facts: Sequence[Fact],
    methods: Sequence[str | Arm],
    *,
    batch_size: int = 100,
    seed: int = 0,
    known: Literal["refuse", "skip", "edit"] = "refuse",
    statistics_text: Path | None = None,
    on_progress: OnSideProgress | None = None,
) -> Iterator[Side]:
    """As `compare_edits`, side by side as each is done: who stops in the middle keeps those before.

    A side that cannot be made says why, and the others stand.

    Raises:
        InputError: before the first side, as `arms_of` and for facts that no method can edit.
    """
    compared = ComparedSessions(lm, methods, seed=seed, statistics_text=statistics_text)
    check_batches(facts, batch_size)
    # As they were given: what is dropped from a batch is told in its report.
    batches = list(batched(facts, batch_size))
    return (_side(compared, arm.label, batches, known, on_progress) for arm in compared.arms)


def _side(
    compared: ComparedSessions,
    label: str,
    batches: Sequence[Sequence[Fact]],
    known: Literal["refuse", "skip", "edit"],
    on_progress: OnSideProgress | None,
) -> Side:
    session = compared.sessions.get(label)
    if session is None:
        return Side(label, None, (), 0.0, compared.refused[label])
    began, reports, error = time.perf_counter(), [], None
    tell = (lambda progress: on_progress(label, progress)) if on_progress else None
    try:
        for batch in batches:
            reports.append(compared.edit(label, batch, known=known, on_progress=tell))
    except InputError as problem:
        error = str(problem)
    return Side(label, session, tuple(reports), time.perf_counter() - began, error)


class ComparedSessions:
    """A session for each side of a comparison, on one model, with the same prefixes and statistics.

    Whoever holds it decides what each side edits, and when: one side after the other, or fact by fact.

    Args:
        lm: the model.
        methods: names, or `Arm`s.
        seed, statistics_text: as for `EditSession`.

    Attributes:
        arms: all sides, in the order asked for.
        sessions: label → its session.
        refused: label → why this side has no session: its settings do not suit the model.

    Raises:
        InputError: as `arms_of`.
    """

    def __init__(
        self,
        lm: EditableModel,
        methods: Sequence[str | Arm],
        *,
        seed: int = 0,
        statistics_text: Path | None = None,
    ):
        self.arms = arms_of(methods)
        self.sessions: dict[str, EditSession] = {}
        self.refused: dict[str, str] = {}
        for arm in self.arms:
            try:
                self.sessions[arm.label] = EditSession(
                    lm, arm.method, seed=seed, settings=dict(arm.settings), statistics_text=statistics_text
                )
            except InputError as error:
                self.refused[arm.label] = str(error)
        self._search = SharedSearch(lm, [session.settings for session in self.sessions.values()])

    def edit(
        self,
        label: str,
        facts: Sequence[Fact],
        *,
        known: Literal["refuse", "skip", "edit"] = "refuse",
        on_progress: OnProgress | None = None,
    ) -> BatchReport:
        """`EditSession.edit` of one side, which shares its search with the others as long as it has no edits.

        Raises:
            InputError: as `EditSession.edit`.
        """
        session = self.sessions[label]
        targets = None if session.n_edits else self._search.of(session)
        return session.edit(facts, known=known, targets=targets, on_progress=on_progress)
