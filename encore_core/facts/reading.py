"""Read facts from files, streams and text: every form by one table of names, with a notice about what is not used.

It reads records of CounterFact, MQuAKE, RippleEdits, EasyEdit, KnowEdit, zsRE and our own form, see `forms`, as a JSON
array, as JSON lines or wrapped in an object, see `json_rows`; and tables, see `csv_rows`. Values that mean nothing
(null, NaN, blank texts, and the words of `texts.NO_TEXT`) count as missing. Every refusal is a `FactError` of one line
that names the field, the value and what would be right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from encore_core.errors import quoted
from encore_core.facts.csv_rows import csv_rows
from encore_core.facts.fact import Fact
from encore_core.facts.forms import Read, facts_of
from encore_core.facts.json_rows import is_json, json_rows
from encore_core.facts.notices import Telling
from encore_core.facts.source import check_size, read_source, refuse_stand_ins
from encore_core.facts.texts import FactError

FOUND = "found"
"""Given as `subject`, it lets a rule find subjects that a file does not name."""

FORMATS = ("counterfact", "easyedit", "zsre", "encore", "csv")

MOST_BAD = 10_000
"""Bad rows after which the rest of a file is not read, because the messages would take more memory than the file."""

_LISTED = 5  # bad rows described in a message; the others are only named


def read_facts(
    source: str | Path | IO[str] | IO[bytes],
    limit: int | None = None,
    format: str | None = None,
    *,
    on_error: str = "raise",
    notice: Callable[[str], None] | None = None,
    subject: str | None = None,
    max_bytes: int | None = None,
) -> list[Fact]:
    """Read facts from a file, an open stream or a set that comes with the program.

    Args:
        source: a path; `"bundled"` for the bundled set, `"long"` for the one of more than 10,000 facts (write
            `./bundled` for a file of that name); or an open stream of text or bytes, such as an upload.
        limit: stop after this many facts; later rows are not looked at. None for all.
        format: one of `FORMATS`, whose names then take precedence if a record has several of one thing; None to decide
            by the content.
        on_error: what to do at a row that is no usable fact: `"raise"`, or `"skip"` to leave it out.
        notice: called with one line for each skipped row and each subject whose spelling was changed, and once per
            file for keys or columns, and for values, that are not used.
        subject: `"found"` to let a rule find subjects that the file does not name, or whose prompt has them several
            times (see `found`; such facts have `Fact.subject_found`); None to refuse such rows.
        max_bytes: size of the largest file that is read; None for 20 MB.

    Returns:
        the facts in the file's order, at least one; each knows its place in the file (`Fact.place`).

    Raises:
        FactError: when the source cannot be read, is too large, is of no known form, has bad rows (listed in the
            message and in `FactError.problems`, the other facts in `FactError.facts`), has more than `MOST_BAD` of them
            even if they are skipped, or has no fact at all.
    """
    name, text = read_source(source, max_bytes)
    return parse_facts(
        text, name, limit, format, on_error=on_error, notice=notice, subject=subject, max_bytes=max_bytes
    )


def parse_facts(
    text: str,
    name: str = "pasted",
    limit: int | None = None,
    format: str | None = None,
    *,
    on_error: str = "raise",
    notice: Callable[[str], None] | None = None,
    subject: str | None = None,
    max_bytes: int | None = None,
) -> list[Fact]:
    """Read facts from text in any of the forms of `read_facts`.

    Args:
        text: the content of a file.
        name: its name in messages; `.json` and `.jsonl` at its end mean JSON.
        limit, format, on_error, notice, subject, max_bytes: as in `read_facts`.

    Returns:
        the facts in order, at least one.

    Raises:
        FactError: as `read_facts`.
    """
    _check_options(limit, format, on_error, subject)
    check_size(name, len(text.encode("utf-8", "surrogatepass")), most=max_bytes)
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise FactError(f"{name}: the file is empty: give at least one fact")
    refuse_stand_ins(name, text)

    table = format == "csv" or (format is None and not is_json(text, name))
    telling = Telling(name, notice, "columns" if table else "keys")
    facts: list[Fact] = []
    problems: list[str] = []
    for where, read in _read(text, name, table, format, telling, subject == FOUND):
        if isinstance(read, Fact):
            facts.append(read)
        else:
            problems.append(f"{where}: {read}")
            if on_error == "skip":
                telling.say(f"{where} skipped: {read}")
            if len(problems) > MOST_BAD:
                raise FactError(
                    f"{name}: more than {MOST_BAD:,} rows cannot be used, so the rest is not read; the first: "
                    f"{problems[0]}: give a file with fewer bad rows"
                )
        if len(facts) == limit:
            break
    telling.finish()
    if problems and on_error == "raise":
        raise FactError(_summary(name, problems, len(facts) + len(problems)), problems, facts)
    if not facts:
        why = f" ({len(problems)} rows skipped, the first: {problems[0]})" if problems else ""
        raise FactError(f"{name}: there is no fact in it{why}: give at least one")
    return facts


def _check_options(limit: int | None, format: str | None, on_error: str, subject: str | None) -> None:
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise FactError(f"limit {quoted(limit)} must be a whole number of at least 1, or left out")
    if format is not None and format not in FORMATS:
        raise FactError(f"format {quoted(format)} is unknown: choose one of {', '.join(FORMATS)}")
    if on_error not in ("raise", "skip"):
        raise FactError(f"on_error {quoted(on_error)} is unknown: choose 'raise' or 'skip'")
    if subject not in (None, FOUND):
        raise FactError(f"subject {quoted(subject)} is unknown: choose {FOUND!r}, or leave it out")


def _read(text: str, name: str, table: bool, format: str | None, telling: Telling, find: bool) -> Iterator[Read]:
    """Row by row, the facts of a file, or what is wrong with a row."""
    for where, row in csv_rows(text, name, telling, find) if table else json_rows(text, name, telling):
        if isinstance(row, FactError):
            yield where, row
        else:
            yield from facts_of(row, where, telling, format, find)


def _summary(name: str, problems: Sequence[str], rows: int) -> str:
    """One line for all the bad rows of a file: the first are described, the rest only named."""
    if len(problems) == 1:
        return f"{name}: {problems[0]}"
    shown = "; ".join(problems[:_LISTED])
    rest = [p.split(":", 1)[0] for p in problems[_LISTED:]]
    if rest:
        more = ", ".join(rest[:20]) + (", …" if len(rest) > 20 else "")
        shown += f"; and {len(rest)} more ({more})"
    return f"{name}: {len(problems)} of {rows} rows cannot be used: {shown}"
