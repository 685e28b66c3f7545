"""Which blocks to edit: what facts would cost general text at each, before any edit."""

from __future__ import annotations

import shlex
from functools import partial

import streamlit as st

from dashboard.charts import foretold as charts
from dashboard.elements import chart_card, compute_button, widgets
from dashboard.reading import foretold_rows
from dashboard.reading.bundled_facts import bundled_facts
from dashboard.reading.findings import blocks
from dashboard.visitors.models import usual_model_name
from dashboard.visitors.visitor import Visitor
from encore_core.editing.layer_costs import BlockCost, layer_costs, proposed
from encore_core.model_check import ModelCheck
from encore_core.models.settings import settings_of

METHOD = "ENCORE-N"
N_FACTS = 8
"""Facts whose targets are searched at each block: three minutes for the embedded model on two cores, statistics
included."""


def show(check: ModelCheck) -> None:
    """A button that searches, the chart and the proposal; for another model than the Edit page's, the command."""
    command = f"encore layers --model {shlex.quote(check.name)}"
    with st.container(border=True, key="card_blocks"):
        if check.name != _model_at_hand():
            widgets.heading("Which blocks to edit", "what a fact would cost other text at each block")
            st.caption("Choose this model on the Edit page to compute it here, or use a shell:")
            st.code(command, language=None, wrap_lines=True)
            return
        above = st.container()
        found = compute_button.ask("blocks", "Search at every block", check.name, _work, disabled=bool(check.problems))
        with above:
            if found is None:
                widgets.heading("Which blocks to edit", "what a fact would cost other text at each block")
                st.caption(
                    f"Searches targets of {N_FACTS} facts with each block as the last edited one, and edits nothing. "
                    "The embedded model takes three minutes on two cores, and others can edit in between."
                )
            else:
                _draw(*found, command)


def _model_at_hand() -> str:
    visitor: Visitor | None = st.session_state.get("visitor")
    return visitor.lm.name if visitor is not None else usual_model_name()


def _work(visitor: Visitor, show: compute_button.Show) -> tuple[list[BlockCost], tuple[int, ...], int]:
    facts = [fact for fact in bundled_facts() if fact.known][:N_FACTS]
    costs = layer_costs(visitor.lm, facts, METHOD, progress=show)
    return costs, tuple(settings_of(visitor.lm, METHOD, {}).layers), len(facts)


def _draw(costs: list[BlockCost], edited: tuple[int, ...], n_facts: int, command: str) -> None:
    frame = foretold_rows.of_blocks(costs, edited)
    chart_card.show(
        partial(charts.by_block, frame),
        key="cost by block",
        heading="Which blocks to edit",
        aside=f"medians over {n_facts} facts with quartiles; {METHOD}'s search, violet where its settings edit",
        alt="Estimated damage, steps and share of facts reached, against the last edited block. The values are in the "
        "CSV file below.",
        frame=frame,
        commands=[f"{command} --limit {n_facts}"],
    )
    cheapest = proposed(costs, len(edited))
    widgets.remark(
        f"By this estimate the cheapest blocks are {blocks(cheapest)}; {METHOD}'s settings edit {blocks(edited)}. "
        "It does not show how well facts generalise to paraphrases or how long they last: compare settings in runs."
    )
