"""What the check of a model has found: whether it can be edited here, its memory, and its hyper-parameters."""

from __future__ import annotations

import streamlit as st

from dashboard.elements import widgets
from dashboard.parts.models import tuning
from dashboard.reading import model_check_rows
from dashboard.visitors.messages import Message
from encore_core.methods import METHODS
from encore_core.model_check import ModelCheck
from encore_core.tuned_rows import Shape, find_row


def answer(check: ModelCheck) -> None:
    """Whether it can be edited here, and why not."""
    widgets.tiles(model_check_rows.tiles(check))
    for line in check.problems:
        widgets.problem(line)
    for line in check.notes:
        widgets.notice(Message("warning", line))
    st.caption(
        f"{check.n_layers} layers · d_model {check.d_model:,} · d_mlp {check.d_mlp:,} · {check.n_vocab:,} tokens "
        f"known · {check.n_weights / 1e6:,.0f} M parameters · {check.dtype}. Its files were looked through for this; "
        "nothing of it is kept in memory."
    )


def details(check: ModelCheck) -> None:
    """Memory by part, and the hyper-parameters."""
    left, right = st.columns(2)
    with left, st.container(border=True, key="card_memory"):
        widgets.heading("Memory", "by part")
        columns = [("Part", "name"), ("", "about"), ("Needed", "right")]
        widgets.table(columns, model_check_rows.memory_rows(check), "Memory by part")
    with right, st.container(border=True, key="card_hyper"):
        widgets.heading("Hyper-parameters of ENCORE", f"{check.settings.standing}: {check.source}")
        widgets.table([("Setting", ""), ("Value", "right")], model_check_rows.settings_rows(check), "Hyper-parameters")


def tuned(check: ModelCheck) -> None:
    """What encore tune has found for a model of this shape, or how to have it search."""
    shape = Shape(check.model_type, check.n_layers, check.d_model, check.n_vocab)
    rows = {method: row for method in METHODS if (row := find_row(shape, method)) is not None}
    if not rows:
        tuning.how_to_get_one(check.name, "ENCORE")
        return
    if len(rows) > 1:
        # Another model may have rows of other methods.
        if st.session_state.get("models_tuned") not in rows:
            st.session_state["models_tuned"] = next(iter(rows))
        st.segmented_control("Method that was tuned", list(rows), key="models_tuned", required=True)
    tuning.show(rows[st.session_state["models_tuned"] if len(rows) > 1 else next(iter(rows))])
