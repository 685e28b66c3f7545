"""What one visitor may take of a shared server: limits from one file, checked where work begins.

The file is `encore.toml` in the folder of the program, or the one that ENCORE_CONFIG names; what it leaves out is as in
`Limits`. Widgets may show a limit beforehand, but only the check here, on the server, counts.
"""

from __future__ import annotations

import hmac
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from encore_core import checks
from encore_core.errors import InputError, quoted
from encore_core.facts import MAX_BYTES, Fact
from encore_core.measures.judging import Judge
from encore_core.resources import LIMITS

FILE = LIMITS
CODE_LENGTH = 6
"""Fewest characters of an access code: a shorter one could be guessed."""


@dataclass(frozen=True)
class VisitorLimits:
    """Per visitor, except `visitors`. All are whole numbers from 1, and `keep_minutes` from 0; `encore.toml` explains
    them."""

    visitors: int = 200
    edits: int = 10_000
    facts: int = 1_000
    batch: int = 1_000
    prompts: int = 200
    characters: int = 4_000
    upload_mb: int = MAX_BYTES // 1_000_000
    keep_minutes: int = 60


@dataclass(frozen=True)
class RunLimits:
    """Limits of runs.

    Attributes:
        edits: of one run.
        queued: runs that wait or run at a time.
        access_code: asked for before a run is started; "" for none. The file holds it in plain text: those who can read
            the file may start runs anyway, and a digest would not protect a code that a whole class knows.
        machine_files: whether visitors may name files of this machine: "yes", "no" or "loopback".
    """

    edits: int = 100_000
    queued: int = 100
    access_code: str = ""
    machine_files: str = "loopback"


@dataclass(frozen=True)
class JudgeLimits:
    """Who may judge generated answers (see `measures.judging`).

    Attributes:
        named: whether visitors may name a judge, which this machine then asks: "loopback" or "no". There is no "yes":
            whoever names addresses to a server makes it ask them.
        address, model: of a judge that everybody may ask; "" for none. The key is in the environment alone.
    """

    named: str = "loopback"
    address: str = ""
    model: str = ""


@dataclass(frozen=True)
class Limits:
    """The limits of this server."""

    visitors: VisitorLimits = VisitorLimits()
    runs: RunLimits = RunLimits()
    judge: JudgeLimits = JudgeLimits()


# -- the file ----------------------------------------------------------------------------------------------------------


def limits() -> Limits:
    """The limits that the file gives now.

    Raises:
        InputError: when the file cannot be read, or something in it cannot be used. A server whose limits
            cannot be read must not run without any.
    """
    named = os.environ.get("ENCORE_CONFIG")
    file = Path(named).expanduser() if named else FILE
    try:
        stamp = file.stat().st_mtime_ns
    except OSError as error:
        if named:
            raise InputError(
                f"ENCORE_CONFIG names {named}, which cannot be read ({error.strerror}); give a file."
            ) from error
        return Limits()
    return _read(file, stamp)


@lru_cache(maxsize=4)
def _read(file: Path, stamp: int) -> Limits:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise InputError(f"The limits in {file.name} cannot be read: {reason}.") from error
    return parse(text, file.name)


def parse(text: str, name: str = "encore.toml") -> Limits:
    """Limits from the text of a file.

    Raises:
        InputError: naming the line, or the key, its value and what would be right.
    """
    try:
        found = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also for numbers of thousands of digits
        raise InputError(f"{name} is not valid TOML: {error}.") from error
    sections = {"visitors": VisitorLimits, "runs": RunLimits, "judge": JudgeLimits}
    for key in found:
        if key not in sections:
            raise checks.unknown(f"{name}: unknown section", key, sections)
    return Limits(**{key: _section(name, key, kind, found.get(key, {})) for key, kind in sections.items()})


def _section(name: str, section: str, kind: type, values: Any) -> Any:
    if not isinstance(values, Mapping):
        raise InputError(
            f"{name}: {section} = {quoted(values)} is not a section; write [{section}] on a line of its own."
        )
    known = {one.name: one.default for one in fields(kind)}
    for key, value in values.items():
        if key not in known:
            raise checks.unknown(f"{name}: unknown key", key, known, place=f"in [{section}]")
        _check(name, section, key, value, known[key])
    made = kind(**values)
    if section == "judge" and (made.address or made.model):
        _check_judge(name, made)
    return made


def _check_judge(file: str, made: JudgeLimits) -> None:
    if not (made.address and made.model):
        raise InputError(f"{file}: address and model in [judge] belong together; give both, or neither.")
    if not made.address.startswith(("http://", "https://")):
        raise InputError(
            f'{file}: address = {quoted(made.address)} in [judge] must begin with "http://" or "https://".'
        )
    Judge(made.address, made.model)


def _check(file: str, section: str, key: str, value: Any, usual: Any) -> None:
    what, place = f"{file}: {key}", f"in [{section}]"
    if key == "access_code":
        if not isinstance(value, str) or 0 < len(value.strip()) < CODE_LENGTH or value != value.strip():
            # The code is secret, so it is not in the message.
            raise InputError(
                f"{what} {place} must be a text of at least {CODE_LENGTH} characters without spaces around it, "
                'or "" for none.'
            )
    elif key == "machine_files":
        checks.choice(what, value, ("yes", "no", "loopback"), place=place)
    elif key == "named":
        checks.choice(what, value, ("loopback", "no"), place=place)
    elif section == "judge":
        if not isinstance(value, str):
            raise InputError(f'{what} = {quoted(value)} {place} must be a text, or "" for none.')
    elif (
        checks.whole(what, value, 0 if key == "keep_minutes" else 1, 10**9, place=place) > usual and key == "upload_mb"
    ):
        raise InputError(f"{what} = {value} {place} must be at most {usual}: larger files of facts are not read.")


# -- what is asked -----------------------------------------------------------------------------------------------------


def check_room(n_visitors: int) -> None:
    """Whether there is room for one more visitor.

    Raises:
        InputError: when there is none.
    """
    most = limits().visitors.visitors
    if n_visitors >= most:
        raise InputError(
            f"This server is full: {most:,} visitor{_s(most)} at a time is its limit. Try again in a few minutes."
        )


def check_sessions(n_held: int, n_more: int) -> None:
    """Whether there is room for more sessions of visitors: one that compares four methods takes as much as four.

    Raises:
        InputError: when there is none.
    """
    most = limits().visitors.visitors
    if n_held + n_more > most:
        raise InputError(
            f"{n_more} methods side by side take as much room as {n_more} visitors, and this server has room for "
            f"{max(0, most - n_held):,} more (its limit is {most:,}). Compare fewer methods, or try again later."
        )


def check_text(what: str, text: str) -> None:
    """Whether a text is short enough.

    Raises:
        InputError: when it is too long.
    """
    most = limits().visitors.characters
    if len(text) > most:
        raise InputError(f"{what} has {len(text):,} characters; this server takes up to {most:,}. Shorten it.")


def check_fact(fact: Fact) -> None:
    """Whether a fact is short enough and does not have too many prompts.

    Raises:
        InputError: naming what is too much.
    """
    most = limits().visitors.prompts
    n_prompts = len(fact.paraphrases) + len(fact.neighbours) + len(fact.portability)
    if n_prompts > most:
        others = ", neighbours and portability questions" if fact.portability else " and neighbours"
        raise InputError(
            f"The fact about {quoted(fact.subject)} has {n_prompts:,} paraphrases{others}; this server takes up "
            f"to {most:,}. Leave some out."
        )
    texts = [("subject", fact.subject), ("prompt", fact.text), ("target_new", fact.target_new)]
    texts += [("target_true", fact.target_true or ""), *(("A paraphrase", text) for text in fact.paraphrases)]
    texts += [("A neighbour", text) for one in fact.neighbours for text in (one.prompt, one.target)]
    texts += [("A portability question", text) for one in fact.portability for text in (one.prompt, *one.answers)]
    for what, text in texts:
        check_text(what, text)


def check_upload(what: str, n_bytes: int) -> None:
    """Whether a file or a pasted table is small enough.

    Raises:
        InputError: when it is too large.
    """
    most = limits().visitors.upload_mb
    if n_bytes > most * 1_000_000:
        raise InputError(f"{what} has {n_bytes / 1e6:,.1f} MB; this server takes up to {most:,} MB. Split it.")


def check_edits(facts: Sequence[Fact], batch_size: int, n_edits: int, n_sessions: int = 1) -> None:
    """Whether a visitor may edit these facts.

    Args:
        facts: all of them.
        batch_size: how many at a time.
        n_edits: that the visitor has already.
        n_sessions: how many sessions take them: side by side, each edit counts.

    Raises:
        InputError: naming the limit that they go beyond.
    """
    most = limits().visitors
    if len(facts) > most.facts:
        raise InputError(f"{len(facts):,} facts at once; this server takes up to {most.facts:,}. Give fewer.")
    largest = min(batch_size, len(facts))
    if largest > most.batch:
        raise InputError(f"{largest:,} facts per batch; this server takes up to {most.batch:,}. Make batches smaller.")
    if n_edits + n_sessions * len(facts) > most.edits:
        each = f" by {n_sessions} methods each" if n_sessions > 1 else ""
        raise InputError(
            f"{n_edits:,} edits are on your model, and {len(facts):,} more{each} go beyond this server's limit of "
            f"{most.edits:,} for a visitor. Undo or reset some first."
        )
    for fact in facts:
        check_fact(fact)


def check_runs(n_edits: Sequence[int], n_active: int) -> None:
    """Whether runs may be queued.

    Args:
        n_edits: of each run.
        n_active: runs that wait or run already.

    Raises:
        InputError: naming the limit that they go beyond.
    """
    most = limits().runs
    longest = max(n_edits, default=0)
    if longest > most.edits:
        raise InputError(f"A run of {longest:,} edits; this server takes up to {most.edits:,}. Give fewer edits.")
    if n_active + len(n_edits) > most.queued:
        raise InputError(
            f"{n_active:,} run{_s(n_active)} wait or run here, and {len(n_edits):,} more go beyond this server's limit "
            f"of {most.queued:,}. Wait for some to end."
        )


def needs_code() -> bool:
    """Whether starting a run needs the access code."""
    return bool(limits().runs.access_code)


def is_code(text: str) -> bool:
    """Whether a text is the access code. A wrong one takes as long as the right one."""
    given, wanted = text.strip().encode("utf-8", "surrogatepass"), limits().runs.access_code.encode()
    return hmac.compare_digest(given, wanted)


def may_name_files(at_the_machine: bool) -> bool:
    """Whether a visitor may name files of this machine.

    Args:
        at_the_machine: whether the visitor is at it, see `requester`.
    """
    allowed = limits().runs.machine_files
    return allowed == "yes" or (allowed == "loopback" and at_the_machine)


def may_name_judge(at_the_machine: bool) -> bool:
    """Whether a visitor may name the address of a judge; argument as for `may_name_files`."""
    return limits().judge.named == "loopback" and at_the_machine


def judge_of_server() -> Judge | None:
    """The judge that everybody may ask; None if there is none."""
    found = limits().judge
    return Judge(found.address, found.model) if found.address else None


def _s(n: int) -> str:
    return "" if n == 1 else "s"
