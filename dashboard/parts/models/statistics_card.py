"""The key statistics that a model has: which there are, and whether they were enough."""

from __future__ import annotations

import streamlit as st

from dashboard.elements import widgets
from dashboard.reading import model_check_rows
from encore_core.editing import stored_statistics
from encore_core.model_check import ModelCheck
from encore_core.statistics.convergence import TOLERANCE


def statistics(check: ModelCheck) -> None:
    """Which key statistics there are, how to get others, and what gathers now."""
    with st.container(border=True, key="card_statistics"):
        widgets.heading("Key statistics, C0", "what edits must leave alone")
        columns = [
            ("Layer", "name"),
            ("Text", "name"),
            ("Tokens", "right"),
            ("of d_mlp", "right"),
            ("Made", "name"),
            ("", "name"),
        ]
        widgets.table(columns, model_check_rows.statistics_rows(check), "Key statistics of the edited layers")
        looks = next((one.used.looks for one in check.statistics if one.used and one.used.looks), ())
        if looks:
            with st.expander("Were they enough?", key="models_looks"):
                st.caption(
                    "How far an edit moves text that is not in C0: it falls until more text teaches nothing new. "
                    f"Enough is when doubling the tokens changes it by less than {TOLERANCE:.0%} at every layer."
                )
                columns = [("Tokens", "right"), ("Disturbance", "right"), ("Change", "right")]
                widgets.table(columns, model_check_rows.looks_rows(looks), "Disturbance against tokens")
        if any(one.used and one.used.chosen for one in check.statistics):
            st.button(
                "Use the bundled sample again", key="models_forget", on_click=_forget_choice, args=(check.name,),
                help="Deletes nothing; edits go back to statistics from the text that comes with the program.",
            )  # fmt: skip


def _forget_choice(name: str) -> None:
    key = stored_statistics.key_of(name)
    if key is not None:
        stored_statistics.forget_choice(key)
