"""The order of a run's facts: which are chosen, how they fall into batches, and where its checkpoints are."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

from encore_core.errors import quoted
from encore_core.facts import Fact


def choose_facts(facts: Sequence[Fact], n: int, order: str, seed: int) -> list[Fact]:
    """The facts of a run: the first n of the file, or of a seeded shuffling of all of it.

    In either case a longer run begins with the facts of a shorter one.
    """
    chosen = list(facts)
    if order == "shuffled":
        random.Random(seed).shuffle(chosen)
    return chosen[:n]


def arranged(facts: Sequence[Fact], batch_size: int) -> tuple[list[Fact], list[str]]:
    """Facts in an order in which no batch holds two answers to one prompt, or one edit twice.

    Facts of a batch are solved together, so such facts cannot stand in one batch; in different batches the later edit
    is a new one. CounterFact has a few of them. One that comes too early is put off: each fact goes into the first
    batch that has room and does not have its prompt.

    Args:
        facts: in the order wanted.
        batch_size: facts a batch.

    Returns:
        the facts in their new order, and one line for each that was put off.
    """
    batches: list[list[Fact]] = []
    notices: list[str] = []
    latest: dict[str, int] = {}  # the last batch that has a prompt
    filling = 0  # the first batch that is not full; no batch behind it is
    for fact in facts:
        before = latest.get(fact.asked, -1)
        if before >= filling:
            notices.append(
                f"The fact about {quoted(fact.subject)}{_where(fact)} is put off to a later batch: "
                f"batch {filling + 1} has {quoted(fact.text)} already."
            )
        latest[fact.asked] = number = max(filling, before + 1)
        if number == len(batches):
            batches.append([])
        batches[number].append(fact)
        if len(batches[filling]) == batch_size:
            filling += 1
    return [fact for batch in batches for fact in batch], notices


def batch_ends(facts: Sequence[Fact], batch_size: int) -> list[int]:
    """Where the batches of a run end, in facts from its start; the last entry is the number of facts.

    Batches are full but for the last, or last ones where nothing was left that could fill them (see `arranged`).
    """
    ends: list[int] = []
    prompts: set[str] = set()
    for position, fact in enumerate(facts):
        if position - (ends[-1] if ends else 0) == batch_size or fact.asked in prompts:
            ends.append(position)
            prompts = set()
        prompts.add(fact.asked)
    return [*ends, len(facts)]


def checkpoints(ends: Iterable[int], every: int) -> list[int]:
    """The checkpoints of a run: 0, the end of each batch that reaches a multiple of `every`, and the last end."""
    found, before = [0], 0
    for end in ends:
        if end // every > before // every:
            found.append(end)
        before = end
    return found if found[-1] == before else [*found, before]


def _where(fact: Fact) -> str:
    """Where a fact stands in its file, for the middle of a sentence."""
    return f" ({fact.place})" if fact.place else ""
