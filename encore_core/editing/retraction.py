"""Edits taken out of a session's draft, and what a retraction leaves behind.

Without an edit, the matrices are those of a session that never made it (see `removal`). Its prompt then gives its first
answer, unless other edits have changed that, too: those of neighbouring facts do at times. Such a fact is set back: its
target is the hidden state of the unedited model, solved for layer by layer as an edit is, with EMMET's slack: none for
one fact, ε for several. This does not join what is preserved, because a session that never made the edit would not
preserve it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from encore_core.editing.batch import Clock, SolvedBatch, add_updates, no_seconds
from encore_core.editing.batch_report import (
    AnswerChange,
    AppliedBatch,
    BatchReport,
    EditProgress,
    OnProgress,
    OtherEdits,
    Place,
    RetractedFact,
)
from encore_core.editing.edit_list import MadeEdit, keys_of
from encore_core.editing.edited_matrices import Sums
from encore_core.editing.keys import KeyReader
from encore_core.editing.removal import Entry, removal
from encore_core.editing.what_is_kept import Memory
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.forward.prompts import Text, encode_all, encode_fact
from encore_core.measures.answers import Answer, Question, answer_probabilities, questions
from encore_core.measures.generated import GenerationSettings, generate
from encore_core.methods import Settings
from encore_core.models.editable import EditableModel

MOST_OTHERS = 200
"""Other edits whose answers are measured, the latest ones; more would make a retraction slow."""


def take_out(
    lm: EditableModel,
    history: Sequence[AppliedBatch],
    ended: tuple[Place, ...],
    start: dict[int, Memory],
    current: dict[int, Memory],
    inverse_of: Callable[[int], torch.Tensor],
    draft: Sums,
    *,
    sequential: bool,
    on_progress: OnProgress | None = None,
) -> SolvedBatch:
    """Take edits out of a draft and of P.

    Args:
        lm: the model; the caller holds its lock.
        history: of the session.
        ended: the edits to take out.
        start, current: by layer, P before the first batch and now.
        inverse_of: gives the inverse of a layer's first P, see `inverse_of_initial_P`; called if keys are missing.
        draft: a draft of the session's matrices, which is written to.
        sequential: whether keys joined what is preserved.
        on_progress: called after layers.

    Returns:
        the draft, the removals and P without these edits, as a batch that edits nothing.

    Raises:
        InputError: when the edits were made with other statistics, or what comes out is not finite.
    """
    removed, preservation = {}, dict(current)
    for number, (layer, P) in enumerate(current.items(), start=1):
        entries = [_entry(one, layer) for one in history]
        inverse = partial(inverse_of, layer)
        removed[layer] = removal(entries, ended, start[layer], P, inverse, sequential=sequential)
        draft.add(lm, layer, removed[layer])
        if not bool(torch.isfinite(draft.run[layer]).all()):
            raise InputError(f"Layer {layer} is not finite without these edits; reset the session.")
        if sequential:
            preservation[layer] = P.without(removed[layer].Y, partial(keys_of, history, ended, layer))
        if on_progress is not None:
            on_progress(EditProgress("update", number, len(current)))
    return SolvedBatch(draft, {}, preservation, (), no_seconds(), ended, removed)


def _entry(batch: AppliedBatch, layer: int) -> Entry:
    own, removed = batch.updates.get(layer), batch.removed.get(layer)
    return Entry(batch.ended, removed, None, own) if batch.is_retraction else Entry(batch.ended, removed, own)


def set_back(
    lm: EditableModel, facts: Sequence[Fact], prefixes: Sequence[str], settings: Settings, batch: SolvedBatch
) -> SolvedBatch:
    """Set the hidden states of facts back to those of the unedited model, in the draft of a retraction.

    Args:
        lm: the model; the caller holds its lock.
        facts: taken back, but not giving their first answers.
        prefixes, settings: of the session.
        batch: from `take_out`; its draft is written to.

    Returns:
        the batch with the updates that do so.

    Raises:
        InputError: when two facts have the same key, or what comes out is not finite.
    """
    if not facts:
        return batch
    with lm.matrices_replaced({}):
        z = KeyReader(lm, facts, prefixes, settings.layers).states(settings.layers[0])
    slack = 0.0 if len(facts) == 1 else settings.epsilon
    with lm.matrices_replaced(batch.draft.run):
        clock = Clock(no_seconds())
        # A push raises facts whose new answer is not said, and here it is not meant to be.
        plain = replace(settings, pushes=0)
        updates = add_updates(lm, facts, prefixes, plain, batch.preservation, batch.draft, z, slack, clock)
    if not all(bool(torch.isfinite(batch.draft.run[layer]).all()) for layer in settings.layers):
        raise InputError("The matrices are not finite with these facts set back; reset the session.")
    return replace(batch, updates=updates)


def keys_notices(history: Sequence[AppliedBatch]) -> tuple[str, ...]:
    """A line for people if a history comes from an edit file without keys."""
    if all(update.K is not None for batch in history for update in batch.updates.values()):
        return ()
    return ("The edit file holds no keys; they were worked out from its updates and the key statistics.",)


@dataclass(frozen=True)
class _Reading:
    """What a model says to the facts taken back and, for other edits, how probable their new answers are."""

    new: list[Answer]
    own: list[Answer | None]
    others: list[Answer]


class RetractionLook:
    """Measures what a retraction does, before it and after it; made before anything is drafted.

    Args:
        lm: the model; the caller holds its lock.
        before: the session's matrices.
        gone: the edits to take back.
        others: the live edits that stay; the last `MOST_OTHERS` are measured.
        measure: whether to measure anything.
    """

    def __init__(
        self, lm: EditableModel, before: Sums, gone: Sequence[MadeEdit], others: Sequence[MadeEdit], measure: bool
    ):
        self.lm, self.gone, self.measure = lm, gone, measure
        self.facts, self.others = [edit.fact for edit in gone], [edit.fact for edit in others[-MOST_OTHERS:]]
        with lm.matrices_replaced({}):
            self.said = _said(lm, self.facts)
        if not measure:
            return
        with lm.matrices_replaced({}):
            self.own = [_own_answer(lm, fact, text) for fact, text in zip(self.facts, self.said, strict=True)]
            self.loaded = self._read(())
        with lm.matrices_replaced(before.run):
            self.before = self._read(self.others)

    def not_back(self, draft: Sums) -> list[Fact]:
        """The facts whose first answer is not given, with the edits taken out of the draft."""
        with self.lm.matrices_replaced(draft.run):
            said = _said(self.lm, self.facts)
        return [fact for fact, mine, first in zip(self.facts, said, self.said, strict=True) if mine != first]

    def after(self, draft: Sums) -> tuple[tuple[RetractedFact, ...], OtherEdits | None]:
        """What became of the facts and of the other edits, with the edits taken out of the draft."""
        if not self.measure:
            unmeasured = ((edit, AnswerChange(edit.fact.target_new)) for edit in self.gone)
            return tuple(RetractedFact(edit.fact, edit.batch, new) for edit, new in unmeasured), None
        with self.lm.matrices_replaced(draft.run):
            said, after = _said(self.lm, self.facts), self._read(self.others)
        retracted = []
        for i, edit in enumerate(self.gone):
            new, own = ([getattr(one, name)[i] for one in (self.loaded, self.before, after)] for name in ("new", "own"))
            retracted.append(
                RetractedFact(
                    edit.fact,
                    edit.batch,
                    AnswerChange(edit.fact.target_new, *(answer.probability for answer in new)),
                    AnswerChange(self.own[i], *(answer.probability for answer in own)) if self.own[i] else None,
                    said[i] == self.said[i],
                )
            )
        return tuple(retracted), _others(self.before.others, after.others)

    def _read(self, others: Sequence[Fact]) -> _Reading:
        """Readings of the model as it stands, in one pass."""
        facts = self.facts
        mine = {i: Question(facts[i].text, text, facts[i].join) for i, text in enumerate(self.own) if text}
        found = answer_probabilities(self.lm, [*questions(facts), *mine.values(), *questions(others)])
        n, m = len(facts), len(facts) + len(mine)
        answers = dict(zip(mine, found[n:m], strict=True))
        return _Reading(found[:n], [answers.get(i) for i in range(n)], found[m:])


def told(report: BatchReport) -> list[str]:
    """What a retraction leaves behind, one line for each fact taken back and one for the other edits."""
    lines = []
    for one in report.retracted:
        changes = "; ".join(_change(change) for change in (one.new, one.own) if change is not None)
        says = {True: "; it says again what it said as loaded", False: "; it does not say what it said as loaded"}
        lines.append(f"{one.fact.text}: {changes}{says.get(one.is_back, '')}")
    if report.others is not None:
        some, points = report.others, 100 * (report.others.after - report.others.before)
        which = "1 other edit" if some.n == 1 else f"{some.n} other edits"
        lines.append(
            f"{which}: mean {_percent(some.before)} → {_percent(some.after)} ({points:+.1f} points), "
            f"largest change {100 * some.largest:.1f} points"
        )
    return lines


def _change(change: AnswerChange) -> str:
    if change.after is None:
        return change.text
    before, after, loaded = map(_percent, (change.before, change.after, change.loaded))
    return f"{change.text} {before} → {after} (as loaded {loaded})"


def _percent(p: float) -> str:
    return f"{100 * p:.1f} %" if p >= 0.0005 else "<0.1 %"


def _others(before: Sequence[Answer], after: Sequence[Answer]) -> OtherEdits | None:
    if not before:
        return None
    p, q = ([answer.probability for answer in answers] for answers in (before, after))
    largest = max(abs(one - other) for one, other in zip(p, q, strict=True))
    return OtherEdits(len(p), sum(p) / len(p), sum(q) / len(q), largest)


def _said(lm: EditableModel, facts: Sequence[Fact]) -> list[str]:
    """What the model says by greedy decoding, as many tokens as each new answer has."""
    lengths = [encode_fact(lm, fact).n_target for fact in facts]
    found = [""] * len(facts)
    for length in set(lengths):
        some = [i for i, one in enumerate(lengths) if one == length]
        texts = generate(lm, [facts[i].text for i in some], GenerationSettings(length, whole=True))
        for i, one in zip(some, texts, strict=True):
            found[i] = one.text
    return found


def _own_answer(lm: EditableModel, fact: Fact, said: str) -> str | None:
    """The unedited model's answer that is followed: the true one, else what it says; None if neither can be run."""
    for answer in (fact.target_true, said.strip()):
        try:
            if answer:
                encode_all(lm, [Text(fact.text, answer, join=fact.join)])
                return answer
        except InputError:  # too long for the model's context, or no text at all
            continue
    return None
