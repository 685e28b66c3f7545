"""The order of a run's facts: which are chosen, how they fall into batches, where its checkpoints are, and which facts
are scored there."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Sequence

from encore_core.errors import quoted
from encore_core.facts import Fact
from encore_core.runs.plan import MeasurePlan, RunPlan


def choose_facts(facts: Sequence[Fact], n: int, order: str, seed: int) -> list[Fact]:
    """The facts of a run: the first n of the file, or of a seeded shuffle of all of it.

    In either case a longer run begins with the facts of a shorter one.
    """
    chosen = list(facts)
    if order == "shuffled":
        random.Random(seed).shuffle(chosen)
    return chosen[:n]


def arranged(facts: Sequence[Fact], batch_size: int) -> tuple[list[Fact], list[str]]:
    """Facts in an order in which no batch holds two answers to one prompt, or one edit twice.

    Facts of a batch are solved together, so such facts cannot be in one batch; in different batches the later edit
    is a new one. CounterFact has a few of them. One that comes too early is postponed: each fact goes into the first
    batch that has room and does not have its prompt.

    Args:
        facts: in the order wanted.
        batch_size: facts per batch.

    Returns:
        the facts in their new order, and one line for each that was postponed.
    """
    batches: list[list[Fact]] = []
    notices: list[str] = []
    latest: dict[str, int] = {}  # the last batch that has a prompt
    filling = 0  # the first batch that is not full; no later one is
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

    Batches are full except the last, or the last few where no fact was left that fits them (see `arranged`).
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


def ranks_of(n_facts: int, seed: int) -> list[int]:
    """A rank for each fact. A sample takes the facts of lowest rank, so that samples change little during a run."""
    ranks = list(range(n_facts))
    random.Random(seed).shuffle(ranks)
    return ranks


def lowest(places: Sequence[int], ranks: Sequence[int], n: int) -> list[int]:
    """The n places of lowest rank, ascending."""
    return sorted(heapq.nsmallest(n, places, key=ranks.__getitem__))


def scored_subsets(edits: int, ends: Sequence[int], ranks: Sequence[int], wanted: MeasurePlan) -> dict[str, list[int]]:
    """Places of the facts that are scored after `edits` edits, by subset; a fact in several is scored once.

    At 0 edits they are the facts to come: of all of the run's, and of its first batch.
    """
    first = range(ends[0])
    newest = range(max((end for end in (0, *ends) if end < edits), default=0), edits) if edits else first
    chosen = {
        "sample": (range(edits or len(ranks)), wanted.sample_facts),
        "newest": (newest, wanted.batch_facts),
        "first": (first, wanted.batch_facts),
    }
    return {name: lowest(chosen[name][0], ranks, chosen[name][1]) for name in wanted.subsets}


def scored_places(facts: Sequence[Fact], plan: RunPlan) -> list[set[int]]:
    """Places of the facts that are scored, at each checkpoint of a run.

    Args:
        facts: of the run, in order.
        plan: of the run, prepared.
    """
    ends, ranks = batch_ends(facts, plan.batch_size), ranks_of(len(facts), plan.seed)
    at_each = (scored_subsets(edits, ends, ranks, plan.measure) for edits in checkpoints(ends, plan.checkpoint_every))
    return [set().union(*subsets.values()) for subsets in at_each]


def _where(fact: Fact) -> str:
    """The place of a fact in its file, for the middle of a sentence."""
    return f" ({fact.place})" if fact.place else ""
