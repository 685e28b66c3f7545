"""The facts to edit: one of the gallery, a typed fact, or a pasted or uploaded table."""

from __future__ import annotations

import streamlit as st

from dashboard.elements import fact_rows, widgets
from dashboard.parts.edit import gallery, own_fact
from dashboard.reading.bundled_facts import bundled_facts
from dashboard.server import limits
from dashboard.visitors.messages import Message
from dashboard.visitors.widget_state import remembered
from encore_core.errors import InputError
from encore_core.facts import MAX_BYTES, Fact, parse_facts, read_facts

MAX_TABLE = 1000


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
    upload = st.file_uploader(
        "Upload CSV, JSON or JSONL", type=["csv", "tsv", "txt", "json", "jsonl"], key="upload",
        max_upload_size=MAX_BYTES // 1_000_000,
    )  # fmt: skip
    st.text_area(
        "or paste it here" if upload is None else "Pasted text (the upload above is used)",
        key="pasted",
        height=150,
        persist_state="session",
        placeholder="subject,prompt,target_new,target_true\nFrance,The capital of {} is,Rome,Paris",
    )
    if upload is None and not (st.session_state.get("pasted") or "").strip():
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
        rows = table_rows()
    except InputError as error:
        widgets.problem(error)
        return
    if rows.bad is not None and not fact_rows.offer(rows.bad):
        return
    facts = rows.facts
    size = st.session_state["batch_size"]
    n_batches = -(-len(facts) // size)
    read = f"{len(facts)} fact{'s' * (len(facts) != 1)} read, {n_batches} batch{'es' * (n_batches != 1)}."
    widgets.notice(Message("success", read))
    fact_rows.tell(rows)
    shown = [(fact.text, fact.target_new) for fact in facts[:4]]
    widgets.table([("Prompt", ""), ("New answer", "")], shown, "The first facts of the table")
    if len(facts) > len(shown):
        st.caption(f"and {len(facts) - len(shown)} more")


def table_rows() -> fact_rows.Rows:
    """The facts of the upload, or else of the pasted text, and what the reader had to say about them.

    Raises:
        InputError: naming what is wrong, when nothing can be used or a fact goes beyond a limit of this server.
    """
    limit = st.session_state.get("limit", 100)
    upload = st.session_state.get("upload")
    if upload is not None:
        limits.check_upload("The upload", upload.size)
        upload.seek(0)
        rows = fact_rows.read_rows(lambda notice: read_facts(upload, limit, notice=notice))
    else:
        text = st.session_state.get("pasted") or ""
        if not text.strip():
            raise InputError(
                "The table is empty: upload a file or paste at least one row below a line of column names."
            )
        limits.check_upload("The pasted table", len(text))
        rows = fact_rows.read_rows(lambda notice: parse_facts(text, "the pasted table", limit, notice=notice))
    for fact in rows.facts:
        limits.check_fact(fact)
    return rows


def table_facts() -> list[Fact]:
    """The facts of the table that would be edited.

    Raises:
        InputError: as `table_rows`, and for bad rows that the visitor has not chosen to leave out.
    """
    rows = table_rows()
    if rows.bad is not None and not fact_rows.left_out(rows.bad):
        raise rows.bad
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
