"""The rows of an uploaded, pasted or named file of facts: which can be used, and going on without those that cannot."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from dashboard.elements import widgets
from dashboard.visitors.messages import Message
from encore_core.facts import Fact, FactError

SHOWN_ROWS = 10
SHOWN_NOTICES = 3


@dataclass(frozen=True)
class Rows:
    """What a file of facts holds.

    Attributes:
        facts: those that can be used.
        notices: what the reader had to say, one line each.
        bad: what is wrong with the other rows; None where there are none.
    """

    facts: list[Fact]
    notices: list[str]
    bad: FactError | None = None


def read_rows(read: Callable[[Callable[[str], None]], list[Fact]]) -> Rows:
    """Read facts such that bad rows do not hide the good ones.

    Args:
        read: reads them, and tells what it is given of what it leaves.

    Raises:
        InputError: when nothing in the file can be used.
    """
    notices: list[str] = []
    try:
        return Rows(read(notices.append), notices)
    except FactError as error:
        if not (error.problems and error.facts):
            raise
        return Rows(list(error.facts), notices, error)


def left_out(bad: FactError) -> bool:
    """Whether the visitor has chosen to go on without the bad rows of this very file."""
    return bool(st.session_state.get(_key(bad)))


def offer(bad: FactError) -> bool:
    """List the bad rows and offer to use the others. Returns whether the visitor does."""
    n_good, n_bad = len(bad.facts), len(bad.problems)
    lines = list(bad.problems[:SHOWN_ROWS])
    if n_bad > SHOWN_ROWS:
        lines.append(f"and {n_bad - SHOWN_ROWS:,} more")
    place = st.container()
    # The box belongs to what is wrong: another file, with other bad rows, asks anew.
    chosen = st.checkbox(f"Use the other {n_good:,}", key=_key(bad), persist_state="session")
    head = f"{n_bad:,} of {n_good + n_bad:,} rows {'are left out' if chosen else 'cannot be used'}:"
    with place:
        widgets.notice(Message("warning" if chosen else "error", "\n".join([head, *lines])))
    return chosen


def tell(rows: Rows) -> None:
    """Show what the reader had to say."""
    for line in rows.notices[:SHOWN_NOTICES]:
        widgets.notice(Message("info", line))
    if len(rows.notices) > SHOWN_NOTICES:
        with st.expander(f"{len(rows.notices) - SHOWN_NOTICES} more remarks on the file"):
            st.text("\n".join(rows.notices[SHOWN_NOTICES:]))


def _key(bad: FactError) -> str:
    said = "\n".join([str(len(bad.facts)), *bad.problems])
    return f"use the rest {hashlib.sha256(said.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
