"""Every fact on the model: what it was, right after its edit, and now; and any of them can be taken back."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from dashboard.charts.labels import percent
from dashboard.elements import widgets
from dashboard.reading import fact_words
from dashboard.visitors.messages import Message
from dashboard.visitors.visitor import Visitor
from encore_core.editing.edit_list import MadeEdit
from encore_core.errors import InputError
from encore_core.measures.answers import Answer, Question

ASKED_AT_ONCE = 20
"""Facts whose present answers are read without being asked for: some 20 ms each on two cores."""

SHOWN = 200


def show(visitor: Visitor) -> None:
    """The card: a row per fact, forgotten ones first."""
    edits = visitor.session.live_edits()
    if not edits:
        return
    with st.container(border=True, key="card_edited"):
        n = len(edits)
        widgets.heading(f"{n} fact{'s' * (n != 1)} on the model", visitor.session.settings.method)
        try:
            now = _now(visitor, edits)
        except InputError as error:
            now = None
            if not visitor.left_line:  # that is said beside the results
                widgets.problem(error)
        if now is not None and n > 1:
            n_forgotten = sum(map(_is_forgotten, edits, now))
            kind = "warning" if n_forgotten else "success"
            verb = "is" if n_forgotten == 1 else "are"
            said = f"{n_forgotten} of {n} {verb} forgotten" if n_forgotten else f"All {n} are still there"
            widgets.notice(Message(kind, f"{said}."))
        _table(edits, now)
        _take_back(visitor, edits)


Now = tuple[Answer, Answer | None]
"""How the edited model rates a fact's new answer, and its true one."""


def _now(visitor: Visitor, edits: Sequence[MadeEdit]) -> list[Now] | None:
    """What the model says now; None while nobody has asked about so many."""
    state = id(visitor.session), len(visitor.session.history)
    if len(edits) > ASKED_AT_ONCE and st.session_state.get("edits asked about") != state:
        if not st.button(f"Ask what the model says of the {len(edits)} facts now", key="ask_edited", width="stretch"):
            return None
        st.session_state["edits asked about"] = state
    facts = [edit.fact for edit in edits]
    pairs = [Question(fact.text, fact.target_new, fact.join) for fact in facts]
    with_true = [fact for fact in facts if fact.target_true]
    pairs += [Question(fact.text, fact.target_true, fact.join) for fact in with_true]
    answers = visitor.after.answer_probabilities(pairs)
    true = dict(zip(map(id, with_true), answers[len(facts) :], strict=True))
    return [(answer, true.get(id(fact))) for fact, answer in zip(facts, answers, strict=False)]


def _is_forgotten(edit: MadeEdit, now: Now) -> bool:
    """Whether the new answer is no longer ahead of the true one; without a true one, no longer the most probable."""
    new, true = now
    return not new.said if true is None else new.log_probability <= true.log_probability


def _table(edits: Sequence[MadeEdit], now: Sequence[Now] | None) -> None:
    rows = []
    for place, edit in enumerate(edits):
        item = edit.edited
        was, then = (
            "–" if value is None else percent(value) for value in (item.probability_before, item.probability_after)
        )
        forgotten = now is not None and _is_forgotten(edit, now[place])
        present = "?" if now is None else percent(now[place][0].probability)
        shown = (f"✗ {present}", "bad") if forgotten else (present if now is None else f"✓ {present}", "")
        rows.append((forgotten, (edit.number, fact_words.short(edit.fact), was, then, shown)))
    # Forgotten ones stand on top, the latest edit first.
    rows = [row for _, row in sorted(rows, key=lambda row: (not row[0], -row[1][0]))]
    widgets.table(
        [("#", "right"), ("Fact", ""), ("As loaded", "right"), ("After its edit", "right"), ("Now", "right")],
        rows[:SHOWN],
        "Facts on the model: probability of the new answer as loaded, right after the edit, and now",
    )
    if len(rows) > SHOWN:
        st.caption(f"and {len(rows) - SHOWN:,} earlier ones")


def _take_back(visitor: Visitor, edits: Sequence[MadeEdit]) -> None:
    """Any edit, not the last alone."""
    by_number = {edit.number: edit for edit in edits[::-1]}
    left, right = st.columns([3, 2], vertical_alignment="bottom")
    number = left.selectbox(
        "Any edit can be taken back", list(by_number), key="edit_to_take_back",
        format_func=lambda n: f"{n}: {fact_words.short(by_number[n].fact)}",
    )  # fmt: skip
    right.button(
        "Take it back", key="take_back", icon=":material/backspace:", width="stretch", disabled=visitor.is_busy,
        on_click=visitor.ask_to_retract, args=(number,),
        help="The matrices become what they would be without this edit; all other edits stay.",
    )  # fmt: skip
