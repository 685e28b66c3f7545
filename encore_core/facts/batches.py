"""Sets of facts: contradictions in a batch, subjects edited twice, and files in our own form."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from encore_core.errors import quoted
from encore_core.facts.fact import Fact
from encore_core.facts.texts import FactError, name_of
from encore_core.storage import replacing


def check_batch(facts: Iterable[Fact], first: int = 1) -> tuple[list[Fact], list[str]]:
    """Drop exact repetitions from a batch and refuse contradictions in it.

    The facts of a batch are solved for together, so a prompt cannot have two answers. In different batches it can: the
    later edit is a new one.

    Args:
        facts: the facts of one batch.
        first: number of the first of them, for messages; facts from a file are named by their place in it.

    Returns:
        the facts to edit, in order, and one line for each repetition that was dropped.

    Raises:
        FactError: when the same text, apart from capitals and spacing, has two new answers.
    """
    kept: list[Fact] = []
    notices: list[str] = []
    seen: set[tuple[str, str, str]] = set()
    wanted: dict[str, tuple[int, Fact]] = {}
    for number, fact in enumerate(facts, start=first):
        if (*fact.key, fact.target_new) in seen:
            notices.append(
                f"{place_of(fact, number)} dropped: {quoted(fact.text)} → {quoted(fact.target_new)} "
                "is in the batch already"
            )
            continue
        earlier, other = wanted.setdefault(fact.asked, (number, fact))
        if other.target_new != fact.target_new:
            raise FactError(
                f"{both_places(other, earlier, fact, number)} contradict each other: {quoted(fact.text)} is to become "
                f"{quoted(other.target_new)} and {quoted(fact.target_new)}: keep one, or edit them in two batches"
            )
        seen.add((*fact.key, fact.target_new))
        kept.append(fact)
    return kept, notices


def check_batches(facts: Sequence[Fact], batch_size: int) -> tuple[list[list[Fact]], list[str]]:
    """Split facts into batches, each checked by `check_batch`, before any of them is edited.

    Args:
        facts: all of them, in the order of editing.
        batch_size: facts per batch, at least 1.

    Returns:
        the batches, and one line for each repetition that was dropped from one.

    Raises:
        FactError: when a batch contradicts itself (facts are named by their place in the file, or in `facts`), or for
            an invalid batch size.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise FactError(f"batch_size {quoted(batch_size)} must be a whole number of at least 1")
    batches: list[list[Fact]] = []
    notices: list[str] = []
    for start in range(0, len(facts), batch_size):
        kept, dropped = check_batch(facts[start : start + batch_size], start + 1)
        batches.append(kept)
        notices += dropped
    return batches, notices


def place_of(fact: Fact, number: int) -> str:
    """The name of a fact in messages: its place in the file, else its number in a list."""
    return fact.place or f"fact {number}"


def both_places(one: Fact, one_number: int, other: Fact, other_number: int) -> str:
    """Two facts in a message: "facts 61 and 62", "lines 62 and 63"."""
    places = [place_of(one, one_number), place_of(other, other_number)]
    for kind, called in (("fact", "facts"), ("record", "facts"), ("line", "lines")):
        if all(re.fullmatch(rf"{kind} \d+", place) for place in places):
            return f"{called} {places[0].split()[1]} and {places[1].split()[1]}"
    return " and ".join(places)


def duplicate_subjects(facts: Iterable[Fact]) -> dict[tuple[str, str], list[int]]:
    """Find things that a set edits more than once, so that later edits overwrite earlier ones.

    Args:
        facts: facts in the order of editing.

    Returns:
        for each repeated pair of subject and relation (or prompt, if a fact names no relation), the positions of its
        facts, counted from 0.
    """
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for position, fact in enumerate(facts):
        places[fact.subject, fact.relation or fact.prompt].append(position)
    return {pair: found for pair, found in places.items() if len(found) > 1}


def as_lines(facts: Iterable[Fact]) -> str:
    """Facts as JSON lines in our own form.

    `read_facts` gives equal facts back, except for answers that are words of `texts.NO_TEXT`, which it ignores.
    """
    return "".join(json.dumps(fact.to_dict(), ensure_ascii=False, separators=(",", ":")) + "\n" for fact in facts)


def write_facts(facts: Iterable[Fact], path: str | Path) -> None:
    """Write facts as `as_lines` gives them, completely or not at all.

    Args:
        facts: what to write.
        path: the file; its folder must exist.

    Raises:
        FactError: when the file cannot be written.
    """
    path = Path(path)
    lines = as_lines(facts)
    try:
        with replacing(path) as part:
            part.write_text(lines, encoding="utf-8", newline="\n")
    except OSError as error:
        raise FactError(f"{name_of(path)}: cannot be written ({error.strerror}): choose another place") from error
