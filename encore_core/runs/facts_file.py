"""The file of a run's facts, `facts.jsonl` in its folder: its lines, its digest, and reading it back."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.runs.key_statistics import recorded_digest
from encore_core.runs.rows import RunInfo


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


def facts_of(run: RunInfo, path: Path) -> list[Fact]:
    """The facts of a run from its file, in order.

    Raises:
        InputError: when the file is gone or is not the one the run was started with.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"The facts of run {run.id} cannot be read from {path} ({reason}); put the file back, or delete the run."
        ) from error
    if recorded_digest(text) != run.order_digest:
        raise InputError(
            f"The facts of run {run.id} in {path} are not those it was started with; put the file back, or delete "
            "the run."
        )
    return facts_from_lines(text)
