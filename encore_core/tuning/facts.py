"""Which facts a search is made with, and which it must not see."""

from __future__ import annotations

from collections.abc import Sequence

from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.measures.answers import answer_probabilities, questions
from encore_core.models.editable import EditableModel

N_FACTS = 50
LEAST_FACTS = 4


def choose_facts(lm: EditableModel, facts: Sequence[Fact], n_facts: int = N_FACTS) -> tuple[list[Fact], list[Fact]]:
    """The facts of a search, and equally many held-out ones.

    Facts without a true answer, paraphrases or neighbours are left out, and so are repetitions and facts that the model
    says already.

    Args:
        lm: the model as loaded.
        facts: in order.
        n_facts: number of both together.

    Raises:
        InputError: when there are too few.
    """
    if n_facts < LEAST_FACTS:
        raise InputError(f"{n_facts} facts are too few to search with; give at least {LEAST_FACTS}.")
    usable: dict[tuple[str, str], Fact] = {}
    prompts: set[str] = set()
    for fact in facts:
        if fact.target_true and fact.paraphrases and fact.neighbours and fact.asked not in prompts:
            prompts.add(fact.asked)
            usable.setdefault(fact.key, fact)
    found: list[Fact] = []
    waiting = list(usable.values())
    while waiting and len(found) < n_facts:
        some, waiting = waiting[:n_facts], waiting[n_facts:]
        with lm.matrices_replaced({}):
            said = answer_probabilities(lm, questions(some))
        found += [fact for fact, answer in zip(some, said, strict=True) if not answer.said]
    if len(found) < n_facts:
        raise InputError(
            f"Of {len(facts)} facts, {len(found)} can be searched with (a true answer, paraphrases, neighbours, not "
            f"said already), but {n_facts} are needed; give more facts, or ask for fewer."
        )
    found = found[:n_facts]
    # Alternating, so that both halves have the same kinds of facts even if the file is sorted by kind.
    return found[::2], found[1::2]
