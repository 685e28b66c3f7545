"""The fact that the results are about: the one in the editor, or another that has been edited."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from dashboard.parts.edit.fact_form import facts_in_editor
from dashboard.reading import fact_words
from dashboard.visitors.visitor import Visitor
from encore_core.errors import InputError
from encore_core.facts import Fact

MOST_OFFERED = 200


def pick(visitor: Visitor, edited: Sequence[Fact]) -> Fact | None:
    """Offer the facts where there are several, and give the one to show; None while there is none.

    Args:
        visitor: who looks.
        edited: what has been edited, in order.
    """
    try:
        draft = facts_in_editor()[0]
    except InputError:
        draft = visitor.draft if st.session_state["source"] == "Your own" else None
    if draft != visitor.draft:
        visitor.draft = visitor.shown = draft
    latest = edited[::-1][:MOST_OFFERED]
    options = list(dict.fromkeys(([draft] if draft else []) + list(latest)))
    if not options:
        return None
    if visitor.shown not in options:
        visitor.shown = options[0]
    if len(options) > 1:
        # The widget's key changes with its options, because a fact picked elsewhere must show up in it.
        chosen = st.selectbox(
            "Show",
            range(len(options)),
            index=options.index(visitor.shown),
            key=f"shown {hash((tuple(options), visitor.shown, tuple(latest)))}",
            format_func=lambda i: fact_words.asked(options[i]) + _remark(options[i], latest),
        )
        if options[chosen] != visitor.shown:
            visitor.shown = options[chosen]
            st.rerun()
    return visitor.shown


def _remark(fact: Fact, edited: Sequence[Fact]) -> str:
    """What sets the editor's fact apart from those that have been edited; it may be one of them with other prompts."""
    if fact in edited:
        return ""
    is_on = any((one.key, one.target_new) == (fact.key, fact.target_new) for one in edited)
    return "   (as in the editor)" if is_on else "   (not edited)"
