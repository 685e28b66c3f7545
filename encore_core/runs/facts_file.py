"""The file of a run's facts, `facts.jsonl` in its folder: its lines and its digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from encore_core.errors import InputError
from encore_core.facts import Fact


def fact_lines(facts: Iterable[Fact]) -> list[str]:
    """Facts as the lines of the file in a run's folder."""
    return [json.dumps(fact.to_dict(), ensure_ascii=False, separators=(",", ":")) + "\n" for fact in facts]


def facts_from_lines(text: str) -> list[Fact]:
    """Facts from what `fact_lines` wrote.

    Raises:
        InputError: when it is something else.
    """
    try:
        return [Fact(**json.loads(line)) for line in text.split("\n") if line]
    except (ValueError, TypeError) as error:
        raise InputError(f"The run's facts cannot be read: {error}") from error


def digest_of(text: str) -> str:
    """16 hex digits of a text's SHA-256."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
