"""What the model says to the facts of a table before any edit: answers that it gives already, and what does not fit."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from dashboard.charts.labels import percent
from dashboard.elements import widgets
from dashboard.visitors import browser_session
from dashboard.visitors.messages import Message
from encore_core.errors import InputError
from encore_core.facts import Fact
from encore_core.measures.before_edits import BeforeEdits

ASKED = "table asked about"
SHOWN = 10


def ask(facts: Sequence[Fact], token: tuple[object, ...]) -> None:
    """A button that asks the unedited model, and what it said.

    Args:
        facts: of the table.
        token: what tells the table from others; another one is asked about anew.
    """
    visitor = browser_session.current()
    token = (visitor.lm.fingerprint, *token)
    if st.session_state.get(ASKED) != token:
        n = len(facts)
        words = f"Ask the model which of the {n:,} answers it gives already" if n > 1 else "Ask the model first"
        if not st.button(words, key="ask_table", width="stretch"):
            return
        st.session_state[ASKED] = token
    try:
        found = visitor.before.before_edits(facts)
    except InputError as error:
        widgets.problem(error)
        return
    _show(found)


def _show(found: BeforeEdits) -> None:
    widgets.notice(Message("info", f"Given already: {found.in_words}, before any edit."))
    if found.said:
        rows = [(one.prompt, one.target_new, percent(one.probability)) for one in found.said[:SHOWN]]
        columns = [("Said already", ""), ("New answer", ""), ("Probability", "right")]
        widgets.table(columns, rows, "Facts whose new answer the model gives before any edit")
        more = f"and {len(found.said) - SHOWN:,} more; " * (len(found.said) > SHOWN)
        st.caption(f"{more}Apply leaves them out and says so.")
    if found.do_not_fit:
        more = [f"and {len(found.do_not_fit) - SHOWN:,} more"] * (len(found.do_not_fit) > SHOWN)
        lines = "\n".join(["These do not fit the model, and Apply refuses them:", *found.do_not_fit[:SHOWN], *more])
        widgets.notice(Message("warning", lines))
