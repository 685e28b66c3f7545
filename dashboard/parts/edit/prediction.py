"""Predict, then reveal: a class says what an edit will do before it sees what it did."""

from __future__ import annotations

from dashboard.parts.edit.fact_form import facts_in_editor
from dashboard.talk import presenter
from dashboard.visitors.visitor import Visitor
from encore_core.errors import InputError
from encore_core.facts import Fact


def _answer(visitor: Visitor) -> tuple[object, ...]:
    """What tells the results from those of other edits: who edited which facts, in order."""
    if visitor.comparison is not None:
        who, edited = ("compared", *(arm.label for arm in visitor.comparison.arms)), visitor.comparison.edited_facts
    else:
        who, edited = (visitor.session.seed, visitor.session.settings.method), visitor.edited_facts
    return *who, *((fact.key, fact.target_new) for fact in edited)


def is_covered(visitor: Visitor) -> bool:
    """Whether the class has yet to predict what the edits on the model did."""
    if visitor.comparison is not None:
        return presenter.covers("edit", _answer(visitor))
    return visitor.session.n_edits > 0 and presenter.covers("edit", _answer(visitor))


def _choices(fact: Fact) -> list[str]:
    """What a class can vote for."""
    return [
        f"{fact.target_new}, however it is asked; its neighbours are as before.",
        f"{fact.target_new}, but not in every other wording; its neighbours are as before.",
        f"{fact.target_new} in exactly these words only.",
        f"{fact.target_new}, and for its neighbours, too.",
        "What it said before.",
    ]


def predict(visitor: Visitor) -> None:
    """The question in place of the results."""
    if visitor.comparison is not None:
        _predict_methods(visitor)
        return
    fact = visitor.edited_facts[-1]
    words = f"The model has been told: {fact.text} {fact.target_new}. What does it say now?"
    presenter.cover("edit", _answer(visitor), words, _choices(fact))


def _predict_methods(visitor: Visitor) -> None:
    """The question above covered columns."""
    fact = next(iter(visitor.comparison.edited_facts[-1:]), None)
    if fact is None:
        return
    words = f"Each method has told its model: {fact.text} {fact.target_new}. Which one changes its neighbours least?"
    choices = [*(arm.label for arm in visitor.comparison.arms), "No clear difference."]
    presenter.cover("edit", _answer(visitor), words, choices)


def vote_first() -> None:
    """The question before the edit: above what the model says as loaded."""
    try:
        fact = facts_in_editor()[0]
    except InputError:
        return
    words = f"We are about to tell the model: {fact.text} {fact.target_new}. What will it say then?"
    presenter.ask(words, _choices(fact))
