"""Measured before and after a batch: the probabilities of its new answers, and the norms of the matrices as run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from encore_core.editing.edited_matrices import Sums
from encore_core.editing.session_contents import Contents
from encore_core.editing.shared_by_sessions import base_answers
from encore_core.errors import InputError, quoted
from encore_core.facts import Fact
from encore_core.measures.answers import answer_probabilities, probabilities_with_and_without_start, questions
from encore_core.measures.norms import frobenius
from encore_core.models.editable import EditableModel


def look_before(
    lm: EditableModel, contents: Contents, facts: Sequence[Fact], known: str, measure: bool
) -> tuple[list[float | None], list[Fact]]:
    """Probabilities of the new answers on the base model, and the facts to skip because the model says them already.

    Args:
        lm: the model; the caller holds its lock.
        contents: of the session.
        facts: the batch.
        known, measure: see `EditSession.edit`.

    Raises:
        InputError: when the model says a fact already and `known` is "refuse".
    """
    before: list[float | None] = [None] * len(facts)
    current = None
    if measure or (known != "edit" and not contents.is_edited):
        current = base_answers(lm, questions(facts))
        before = [answer.probability for answer in current]
    if known == "edit":
        return before, []
    if contents.is_edited:
        with lm.matrices_replaced(contents.sums().run):
            current = answer_probabilities(lm, questions(facts))
    said = [
        fact
        for fact, answer in zip(facts, current, strict=True)
        # A fact edited before may be edited again: that is a new edit, whatever the model says now.
        if answer.said and fact.key not in contents.edited_keys
    ]
    if said and known == "refuse":
        raise InputError(
            f"target_new {quoted(said[0].target_new)} is what the model says already after "
            f"{quoted(said[0].text)}; give an answer that it does not give."
        )
    return before, said


def look_after(
    lm: EditableModel, draft: Sums, facts: Sequence[Fact], measure: bool
) -> tuple[list[float | None], list[float | None]]:
    """Probabilities of the new answers with a draft in the model, and the same without the model's start token.

    None where nothing is measured; the second are also None for a model without a start token.
    """
    after, bare = [None] * len(facts), [None] * len(facts)
    if measure:
        with lm.matrices_replaced(draft.run):
            if lm.start_token is None:
                after = [answer.probability for answer in answer_probabilities(lm, questions(facts))]
            else:
                after, bare = (
                    [answer.probability for answer in answers]
                    for answers in probabilities_with_and_without_start(lm, questions(facts))
                )
    return after, bare


def norms_as_run(lm: EditableModel, sums: Sums, layers: Iterable[int]) -> dict[int, float]:
    """By layer, the norm of the edited matrix, or else of the base weights, which the caller has put into the model."""
    return {layer: frobenius(sums.run.get(layer, lm.parameter(layer).data)) for layer in layers}
