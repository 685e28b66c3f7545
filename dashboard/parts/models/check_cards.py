"""What the check of a model has found: whether it can be edited here, its memory, and its hyper-parameters."""

from __future__ import annotations

import streamlit as st

from dashboard.elements import widgets
from dashboard.parts.models import tuning, tuning_lives
from dashboard.reading import model_check_rows
from dashboard.reading.findings import blocks
from dashboard.visitors.messages import Message
from encore_core.methods import METHODS
from encore_core.model_check import ModelCheck
from encore_core.tuned_rows import EDITS, LENGTHS, Shape, find_row


def answer(check: ModelCheck) -> None:
    """Whether it can be edited here, and why not."""
    widgets.tiles(model_check_rows.tiles(check))
    for line in check.problems:
        widgets.problem(line)
    for line in check.notes:
        widgets.notice(Message("warning", line))
    st.caption(
        f"{check.n_layers} layers · d_model {check.d_model:,} · d_mlp {check.d_mlp:,} · vocabulary of "
        f"{check.n_vocab:,} tokens · {check.n_weights / 1e6:,.0f} M parameters · {check.dtype}. Only its files were "
        "read for this; the model is not kept in memory."
    )


def details(check: ModelCheck) -> None:
    """Memory by part, and the hyper-parameters."""
    with st.container(key="model_columns"):
        left, right = st.columns(2)
    with left, st.container(border=True, key="card_memory"):
        widgets.heading("Memory", f"by part, with {blocks(check.settings.layers)} edited")
        columns = [("Part", "name"), ("", "about"), ("Needed", "right")]
        widgets.table(columns, model_check_rows.memory_rows(check), "Memory by part")
    with right, st.container(border=True, key="card_hyper"):
        widgets.heading("Hyper-parameters of ENCORE", f"{check.settings.standing}: {check.source}")
        values = ["Value"] if check.for_thousands is None else ["A few edits", "Thousands"]
        columns = [("Setting", ""), *((value, "right") for value in values)]
        widgets.table(columns, model_check_rows.settings_rows(check), "Hyper-parameters")


def tuned(check: ModelCheck) -> None:
    """What encore tune has found for a model of this shape, or how to start the search."""
    shape = Shape(check.model_type, check.n_layers, check.d_model, check.n_vocab)
    rows = {
        method if length == "few" else f"{method}, {EDITS[length]}": row
        for method in METHODS
        for length in LENGTHS
        if (row := find_row(shape, method, length)) is not None
    }
    if not rows:
        tuning.how_to_get_one(check.name, "ENCORE")
        return
    if len(rows) > 1:
        # Another model may have rows of other methods.
        if st.session_state.get("models_tuned") not in rows:
            st.session_state["models_tuned"] = next(iter(rows))
        st.segmented_control("Search to look at", list(rows), key="models_tuned", required=True)
    row = rows[st.session_state["models_tuned"] if len(rows) > 1 else next(iter(rows))]
    if row.tuned_for == "few":
        tuning.show(row)
    else:
        tuning_lives.show(row)
