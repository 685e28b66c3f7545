"""A file of facts that a visitor gives: what was read and what was left, and the choices that it asks for.

Bad rows do not hide the good ones: the visitor may go on without them. Where a file names no subjects, a rule may find
them. Nothing is left out without a word.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import streamlit as st

from dashboard.elements import widgets
from dashboard.visitors.messages import Message
from encore_core.facts import FOUND, Fact, FactError
from encore_core.facts.batches import as_lines
from encore_core.facts.checking import Checked, check_facts
from encore_core.facts.found import BY_RULE

SHOWN_ROWS = 10
SHOWN_NOTICES = 3


@dataclass(frozen=True)
class Given:
    """Where the facts are from.

    Attributes:
        name: in messages.
        data: the content of an upload or of what was pasted; None for a file of this machine.
        path: of that file.
        stamp: what changes when it changes.
        is_text: whether `data` is text that was typed, and so not a file in some encoding.
    """

    name: str
    data: bytes | None = None
    path: str | None = None
    stamp: tuple[object, ...] = ()
    is_text: bool = False

    @classmethod
    def pasted(cls, text: str, name: str) -> Given:
        """Facts that were typed or pasted; half characters that browsers may send are kept for the message."""
        return cls(name, text.encode("utf-8", "surrogatepass"), is_text=True)

    @classmethod
    def upload(cls, upload) -> Given:
        """An upload of `st.file_uploader`."""
        return cls(upload.name, upload.getvalue())

    @classmethod
    def file(cls, path: Path) -> Given:
        """A file of this machine; reading it says what is wrong with it."""
        try:
            stamp = (path.stat().st_mtime_ns, path.stat().st_size)
        except (OSError, ValueError):
            stamp = (0, 0)
        return cls(path.name, path=str(path), stamp=stamp)

    @property
    def token(self) -> str:
        """What tells it from other facts."""
        said = self.data if self.data is not None else f"{self.path} {self.stamp}".encode("utf-8", "surrogatepass")
        return hashlib.sha256(said).hexdigest()

    def checked(self, limit: int | None, by_rule: bool) -> Checked:
        """What is in it, read once for all who give the same under the same name, which messages tell.

        Raises:
            FactError: when it cannot be read as a whole.
        """
        return _checked(self, self.token, self.name, self.is_text, limit, by_rule)


@st.cache_resource(show_spinner="Reading the facts …", max_entries=12)
def _checked(_given: Given, token: str, name: str, is_text: bool, limit: int | None, by_rule: bool) -> Checked:
    source: str | io.StringIO | io.BytesIO
    if _given.data is None:
        source = _given.path
    else:
        source = io.StringIO(_given.data.decode("utf-8", "surrogatepass")) if is_text else io.BytesIO(_given.data)
        source.name = name
    return check_facts(source, limit, FOUND if by_rule else None)


@dataclass(frozen=True)
class Rows:
    """What a visitor's choices leave of a file.

    Attributes:
        checked: what was read.
        bad: what is wrong with rows that are not left out yet; None where nothing stands in the way.
    """

    checked: Checked
    bad: FactError | None

    @property
    def facts(self) -> list[Fact]:
        """Those that can be used."""
        return list(self.checked.facts)

    @property
    def leaves_out(self) -> bool:
        """Whether the visitor goes on without rows that cannot be used."""
        return self.checked.error is not None and self.bad is None


def read(given: Given, limit: int | None = None) -> Rows:
    """A file as the visitor has chosen to read it; draws nothing.

    Raises:
        InputError: when nothing in it can be used.
    """
    try:
        checked = given.checked(limit, by_rule=asks_rule(given))
    except FactError as error:
        raise _in_page_words(error) from error
    if not checked.facts:
        raise _in_page_words(checked.error)
    bad = checked.error
    return Rows(checked, None if bad is None or left_out(bad) else _in_page_words(bad))


def choose(given: Given, limit: int | None = None) -> Rows | None:
    """Draw the choices that a file asks for, and what came of reading it; None while there is nothing to go on with.

    Args:
        given: where the facts are from.
        limit: how many of them are read.
    """
    _offer_rule(given, limit)
    try:
        rows = read(given, limit)
    except FactError as error:
        widgets.problem(error)
        return None
    if rows.checked.error is not None and not _offer_rest(rows.checked.error):
        return None
    # The box may just have been ticked.
    return replace(rows, bad=None)


# -- rows that cannot be used ------------------------------------------------------------------------------------------


def left_out(bad: FactError) -> bool:
    """Whether the visitor has chosen to go on without the bad rows of this very file."""
    return bool(st.session_state.get(_rest_key(bad)))


def _offer_rest(bad: FactError) -> bool:
    """List the bad rows and offer to use the others. Returns whether the visitor does."""
    n_good, n_bad = len(bad.facts), len(bad.problems)
    lines = [_without_options(line) for line in bad.problems[:SHOWN_ROWS]]
    if n_bad > SHOWN_ROWS:
        lines.append(f"and {n_bad - SHOWN_ROWS:,} more")
    place = st.container()
    # The box belongs to what is wrong: another file, with other bad rows, asks again.
    chosen = st.checkbox(f"Use the other {n_good:,}", key=_rest_key(bad), persist_state="session")
    head = f"{n_bad:,} of {n_good + n_bad:,} rows {'are left out' if chosen else 'cannot be used'}:"
    with place:
        widgets.notice(Message("warning" if chosen else "error", "\n".join([head, *lines])))
    return chosen


def _rest_key(bad: FactError) -> str:
    said = "\n".join([str(len(bad.facts)), *bad.problems])
    return f"use the rest {hashlib.sha256(said.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


# -- subjects ----------------------------------------------------------------------------------------------------------


def asks_rule(given: Given) -> bool:
    """Whether the visitor lets a rule find the subjects of this very file."""
    return bool(st.session_state.get(_rule_key(given)))


def _offer_rule(given: Given, limit: int | None) -> None:
    """Offer the rule where the file has rows that it may help."""
    try:
        missing = given.checked(limit, by_rule=False).problems
    except FactError as error:
        missing = (str(error),)
    n = sum(BY_RULE in line for line in missing)
    if not n:
        return
    st.checkbox(
        "Find the subjects by a rule", key=_rule_key(given), persist_state="session",
        help="For files that name no subjects, and prompts that have one twice. The rule takes a name, or a run of "
        "words, that a prompt shares with a paraphrase, else a name in the prompt. It is a guess: it finds 84 % of "
        "zsRE's subjects exactly. Facts whose subject it found are marked wherever they are listed.",
    )  # fmt: skip
    if asks_rule(given):
        found = given.checked(limit, by_rule=True).subjects_found
        widgets.notice(
            Message(
                "warning",
                "One subject was found by a rule. It is a guess: look at it below."
                if found == 1
                else f"{found:,} subjects were found by a rule. It is a guess: look at them below.",
            )
        )


def _rule_key(given: Given) -> str:
    return f"find subjects {given.token[:16]}"


def _in_page_words(error: FactError) -> FactError:
    return FactError(_without_options(str(error)), error.problems, error.facts)


def _without_options(line: str) -> str:
    """A message without the words for the command line and for Python."""
    return line.replace(BY_RULE, "(the box above)")


# -- what was read -----------------------------------------------------------------------------------------------------


def tell(rows: Rows, key: str) -> None:
    """Show what was read and what was left, and offer the facts in our own form.

    Args:
        rows: from `choose`.
        key: of the widgets.
    """
    checked = rows.checked
    _lines("warning", checked.contradictions, "contradictions")
    if checked.contradictions:
        st.caption("Facts that contradict each other cannot be in one batch; of two batches the later answer counts.")
    _lines("info", checked.notices, "remarks on the file")
    with st.expander("What was read", key=f"{key}_read"):
        table = [(name[0].upper() + name[1:], value) for name, value in checked.counts()]
        widgets.table([("", "name"), ("", "")], table, "What the file holds")
        for line in checked.repeated[:SHOWN_ROWS]:
            widgets.remark(line)
        if len(checked.repeated) > SHOWN_ROWS:
            st.caption(f"and {len(checked.repeated) - SHOWN_ROWS:,} more that are repeated")
        st.download_button(
            "Download them as JSONL", lambda: as_lines(checked.facts).encode("utf-8", "surrogatepass"),
            "encore-facts.jsonl", "application/jsonl", on_click="ignore", key=f"{key}_jsonl",
            help="The facts in the program's own form, as encore facts convert writes it: every program here reads it.",
        )  # fmt: skip


def _lines(kind: str, lines: Sequence[str], called: str) -> None:
    """The first lines, and the others in a box that opens."""
    for line in lines[:SHOWN_NOTICES]:
        widgets.notice(Message(kind, line))
    if len(lines) > SHOWN_NOTICES:
        with st.expander(f"{len(lines) - SHOWN_NOTICES:,} more {called}"):
            st.text("\n".join(lines[SHOWN_NOTICES:]))
