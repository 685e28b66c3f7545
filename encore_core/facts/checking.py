"""What a file of facts holds and what is wrong with it: rows that cannot be used, repetitions, contradictions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from encore_core.errors import quoted
from encore_core.facts.batches import both_places, place_of
from encore_core.facts.fact import Fact
from encore_core.facts.reading import read_facts
from encore_core.facts.texts import FactError


@dataclass(frozen=True)
class Checked:
    """A file of facts, examined.

    Attributes:
        facts: those that can be used.
        notices: what of the file is not used, or was changed.
        error: what the reader says of the rows that cannot be used; None where there are none.
        repeated: one line for each fact that an earlier one repeats exactly.
        contradictions: one line for each fact whose text an earlier one wants to continue differently.
        more: whether the file has other facts behind the limit.
    """

    facts: tuple[Fact, ...]
    notices: tuple[str, ...] = ()
    error: FactError | None = None
    repeated: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()
    more: bool = False

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each row that cannot be used."""
        return () if self.error is None else tuple(self.error.problems)

    @property
    def kinds(self) -> dict[str, int]:
        """Portability questions by kind; those without one under ""."""
        return dict(Counter(one.kind or "" for fact in self.facts for one in fact.portability))

    @property
    def subjects_found(self) -> int:
        """Facts whose subjects were found by a rule."""
        return sum(fact.subject_found for fact in self.facts)

    def counts(self) -> list[tuple[str, str]]:
        """(what, how many) of everything in it, in words."""
        kinds = ", ".join(f"{kind or 'of no kind'} {number:,}" for kind, number in self.kinds.items())
        total = sum(self.kinds.values())
        rows = [("facts", f"{len(self.facts):,}{', and more behind them that are not read' if self.more else ''}")]
        if self.subjects_found:
            rows.append(
                (
                    "by a rule",
                    f"{self.subjects_found:,} of their subjects "
                    f"{'was' if self.subjects_found == 1 else 'were'} found by a rule",
                )
            )
        rows += [
            ("paraphrases", f"{sum(len(fact.paraphrases) for fact in self.facts):,}"),
            ("neighbours", f"{sum(len(fact.neighbours) for fact in self.facts):,}"),
            ("portability", f"{total:,}{f': {kinds}' if kinds else ''}"),
            ("cannot be used", f"{len(self.problems):,}"),
            ("repeated", f"{len(self.repeated):,}"),
            ("contradictions", f"{len(self.contradictions):,}"),
        ]
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Counts and lines as plain JSON values, without the facts themselves."""
        return {
            "facts": len(self.facts),
            "more": self.more,
            "paraphrases": sum(len(fact.paraphrases) for fact in self.facts),
            "neighbours": sum(len(fact.neighbours) for fact in self.facts),
            "portability": self.kinds,
            "subjects_found": self.subjects_found,
            "notices": list(self.notices),
            "problems": list(self.problems),
            "repeated": list(self.repeated),
            "contradictions": list(self.contradictions),
        }


def check_facts(
    source: str | Path | IO[str] | IO[bytes],
    limit: int | None = None,
    subject: str | None = None,
    max_bytes: int | None = None,
) -> Checked:
    """Read a file of facts and say all that is wrong with it.

    Args:
        source, limit, subject, max_bytes: as for `reading.read_facts`; a stream must be able to go back to its start.

    Raises:
        FactError: when the file as a whole cannot be read.
    """
    notices: list[str] = []
    wrong: FactError | None = None
    try:
        facts = read_facts(source, limit, notice=notices.append, subject=subject, max_bytes=max_bytes)
    except FactError as error:
        if not error.problems:
            raise
        facts, wrong = list(error.facts), error
    repeated, contradictions = _compared(facts)
    more = len(facts) == limit and _goes_on(source, limit, subject, max_bytes)
    return Checked(tuple(facts), tuple(notices), wrong, tuple(repeated), tuple(contradictions), more)


def _goes_on(source: str | Path | IO[str] | IO[bytes], limit: int, subject: str | None, max_bytes: int | None) -> bool:
    """Whether there is another fact behind the first `limit`."""
    if not isinstance(source, (str, Path)):
        source.seek(0)
    try:
        return len(read_facts(source, limit + 1, on_error="skip", subject=subject, max_bytes=max_bytes)) > limit
    except FactError:  # too many bad rows to look through
        return True


def _compared(facts: Sequence[Fact]) -> tuple[list[str], list[str]]:
    """The facts that an earlier one repeats, and those that one contradicts."""
    repeated, contradictions = [], []
    seen: dict[tuple[str, str, str], tuple[int, Fact]] = {}
    wanted: dict[str, tuple[int, Fact]] = {}
    for number, fact in enumerate(facts, start=1):
        first, same = seen.setdefault((*fact.key, fact.target_new), (number, fact))
        if same is not fact:
            repeated.append(
                f"{place_of(fact, number)} repeats {place_of(same, first)}: {quoted(fact.text)} → "
                f"{quoted(fact.target_new)}"
            )
        earlier, other = wanted.setdefault(fact.asked, (number, fact))
        if other.target_new != fact.target_new:
            contradictions.append(
                f"{both_places(other, earlier, fact, number)} contradict each other: {quoted(fact.text)} is to become "
                f"{quoted(other.target_new)} and {quoted(fact.target_new)}"
            )
    return repeated, contradictions
