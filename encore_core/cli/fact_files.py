"""The option --facts of all commands: files, "bundled" or "long", standard input, and rows that cannot be used."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence

from encore_core.cli.options import path_or_name
from encore_core.cli.output import notice
from encore_core.errors import InputError
from encore_core.facts import FOUND, MAX_BYTES, Fact, FactError, place_of, read_facts
from encore_core.measures.before_edits import unfit
from encore_core.models.editable import EditableModel
from encore_core.words import counted

FILE_BYTES = 500 * 1000 * 1000
"""Largest file of facts that the command line reads; the pages and standard input take up to `MAX_BYTES`."""

STANDARD_INPUT = "-"
HELP = 'JSON, JSONL or CSV, "bundled", "long" (10,000 facts), or - for standard input'


def add_facts_options(parser: argparse.ArgumentParser, **facts: object) -> None:
    """Add --facts, with the keywords of `add_argument`, --skip-bad and --find-subjects."""
    parser.add_argument("--facts", **({"type": path_or_name, "metavar": "FILE", "help": HELP} | facts))
    add_reading_options(parser)


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Add --skip-bad and --find-subjects."""
    parser.add_argument("--skip-bad", action="store_true", help="leave out rows that cannot be used; each is listed")
    add_find_subjects_option(parser)


def add_find_subjects_option(parser: argparse.ArgumentParser) -> None:
    """Add --find-subjects."""
    parser.add_argument(
        "--find-subjects",
        action="store_true",
        help="let a rule find subjects that the file does not name (a name that prompt and paraphrase share)",
    )


def facts_of(options: argparse.Namespace, limit: int | None = None) -> list[Fact]:
    """The facts that the options name, with a notice about what the reader ignores.

    Raises:
        InputError: as `read_facts`; the message says if other rows can be used.
    """
    source = source_of(options.facts)
    try:
        return read_facts(
            source,
            limit,
            on_error="skip" if options.skip_bad else "raise",
            notice=notice,
            subject=FOUND if options.find_subjects else None,
            max_bytes=FILE_BYTES,
        )
    except FactError as error:
        if not (error.problems and error.facts):
            raise
        raise InputError(f"{error}; --skip-bad goes on with the other {len(error.facts):,}") from error


def source_of(name: str) -> str | io.BytesIO:
    """What the readers of facts take for a name on the command line: itself, or standard input for "-"."""
    return _standard_input() if name == STANDARD_INPUT else name


def _standard_input() -> io.BytesIO:
    if sys.stdin is None or sys.stdin.closed:
        raise InputError("There is no standard input to read facts from; give --facts FILE.")
    stream = io.BytesIO(sys.stdin.buffer.read(MAX_BYTES + 1))
    stream.name = "standard input"
    return stream


def fitting(
    lm: EditableModel, facts: Sequence[Fact], prefixes: Sequence[str], options: argparse.Namespace, scored: bool
) -> list[Fact]:
    """The facts that fit the model, checked before any is edited.

    Args:
        lm: the model.
        facts: from `facts_of`.
        prefixes: the session's sampled ones; they make prompts longer.
        options: with --skip-bad, the others are left out with a notice.
        scored: whether their paraphrases and neighbours will be run, too.

    Raises:
        InputError: naming the first fact that does not fit; with --skip-bad only if none fits.
    """
    bad = dict(unfit(lm, facts, prefixes, scored))
    if not bad:
        return list(facts)
    lines = [f"{place_of(facts[at], at + 1)}: {error}" for at, error in bad.items()]
    others = [fact for at, fact in enumerate(facts) if at not in bad]
    if options.skip_bad and others:
        for line in lines:
            notice(f"skipped {line}")
        return others
    n = len(lines) - 1
    more = f" So {'is' if n == 1 else 'are'} {counted(n, 'other')}." if n else ""
    way_on = f" --skip-bad goes on with the other {len(others):,}." if others else ""
    raise InputError(f"{lines[0]}{more}{way_on}")
