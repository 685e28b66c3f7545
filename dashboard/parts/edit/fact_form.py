"""The facts to edit: one of the gallery, a typed fact, or a pasted or uploaded table."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from dashboard.elements import fact_rows, hub_set_field, widgets
from dashboard.parts.edit import gallery, own_fact, table_before
from dashboard.reading import fact_words
from dashboard.reading.bundled_facts import bundled_facts
from dashboard.server import limits
from dashboard.visitors.messages import Message
from dashboard.visitors.widget_state import remembered
from encore_core.errors import InputError
from encore_core.facts import MAX_BYTES, Fact

MAX_TABLE = 1000
HUB_SET = "table_set"


def pick_facts() -> None:
    """The card in which facts are picked, typed or pasted. `facts_in_editor` reads what it holds."""
    remembered("source", "Example")
    for name, value in own_fact.as_fields(bundled_facts()[0]).items():
        remembered(name, value)
    with st.container(border=True, key="card_fact"):
        widgets.heading("1 · Fact")
        source = st.segmented_control(
            "Where facts come from",
            ["Example", "Your own", "Table"],
            key="source",
            required=True,
            label_visibility="collapsed",
            width="stretch",
            persist_state="session",
        )
        if source == "Example":
            gallery.pick()
        elif source == "Your own":
            own_fact.form()
        else:
            _table()


def fill_from_example() -> None:
    """Put the example that a link names into the editor."""
    gallery.fill_from_example()


def _table() -> None:
    st.file_uploader(
        "Upload CSV, JSON or JSONL", type=["csv", "tsv", "txt", "json", "jsonl"], key="upload",
        max_upload_size=MAX_BYTES // 1_000_000,
    )  # fmt: skip
    used = _used()
    st.text_area(
        "or paste it here" if used in (None, "pasted") else f"Pasted text (the {used} is used)",
        key="pasted",
        height=150,
        persist_state="session",
        placeholder="subject,prompt,target_new,target_true\nFrance,The capital of {} is,Rome,Paris",
    )
    with st.expander("or take a data set from the hub", key="table_sets"):
        hub_set_field.pick(HUB_SET)
    if _used() is None:
        st.caption(
            "Columns: subject, prompt, target_new; optional target_true, paraphrases, neighbours. "
            "CounterFact, EasyEdit and zsRE files are read as they are."
        )
        return
    left, right = st.columns(2)
    remembered("limit", 100)
    remembered("batch_size", 20)
    left.number_input("Use the first … facts", 1, MAX_TABLE, key="limit", persist_state="session")
    right.number_input("Facts per batch", 1, MAX_TABLE, key="batch_size", persist_state="session",
                       help="The facts of a batch are edited together; Undo takes back one batch.")  # fmt: skip
    try:
        given, limit = _given(), st.session_state["limit"]
        rows = fact_rows.choose(given, limit)
        if rows is None:
            return
        _check_limits(rows.facts)
    except InputError as error:
        widgets.problem(error)
        return
    _show_facts(rows)
    table_before.ask(rows.facts, (given.token, limit, fact_rows.asks_rule(given)))


def _show_facts(rows: fact_rows.Rows) -> None:
    """How many facts there are and in how many batches, what the reader said, and the first of them."""
    facts, size = rows.facts, st.session_state["batch_size"]
    n_batches = -(-len(facts) // size)
    read = f"{len(facts)} fact{'s' * (len(facts) != 1)} read, {n_batches} batch{'es' * (n_batches != 1)}."
    more = f" There are more in the file; up to {MAX_TABLE:,} can be used here, and any number on the page Run."
    widgets.notice(Message("success", read + more * rows.checked.more))
    fact_rows.tell(rows, "table")
    shown = [(f"{fact.text}{fact_words.marked(fact)}", fact.target_new) for fact in facts[:4]]
    widgets.table([("Prompt", ""), ("New answer", "")], shown, "The first facts of the table")
    if len(facts) > len(shown):
        st.caption(f"and {len(facts) - len(shown)} more")


def _used() -> str | None:
    """Which of the three ways to give a table is used: what was uploaded, else a data set, else what was pasted."""
    if st.session_state.get("upload") is not None:
        return "upload above"
    if st.session_state.get(HUB_SET):
        return "data set below"
    return "pasted" if (st.session_state.get("pasted") or "").strip() else None


def _given() -> fact_rows.Given:
    """The table.

    Raises:
        InputError: when there is none, or it is too large for this server.
    """
    used, upload = _used(), st.session_state.get("upload")
    if used == "upload above":
        limits.check_upload("The upload", upload.size)
        return fact_rows.Given.upload(upload)
    if used == "data set below":
        return hub_set_field.given(st.session_state[HUB_SET])
    text = st.session_state.get("pasted") or ""
    if used is None:
        raise InputError("The table is empty: upload a file or paste at least one row below a line of column names.")
    limits.check_upload("The pasted table", len(text))
    return fact_rows.Given.pasted(text, "the pasted table")


def _check_limits(facts: Sequence[Fact]) -> None:
    for fact in facts:
        limits.check_fact(fact)


def table_facts() -> list[Fact]:
    """The facts of the table that would be edited.

    Raises:
        InputError: naming what is wrong, when nothing can be used, a fact goes beyond a limit of this server, or there
            are bad rows that the visitor has not chosen to leave out.
    """
    rows = fact_rows.read(_given(), st.session_state.get("limit", 100))
    if rows.bad is not None:
        raise rows.bad
    _check_limits(rows.facts)
    return rows.facts


def facts_in_editor() -> list[Fact]:
    """The facts that Apply would edit.

    Raises:
        InputError: as `own_fact.typed_fact` and `table_facts`.
    """
    source = st.session_state["source"]
    if source == "Table":
        return table_facts()
    if source == "Example":
        return [bundled_facts()[st.session_state.get("example", 0)]]
    return [own_fact.typed_fact()]
