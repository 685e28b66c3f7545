"""Step 2: the search for the target of the reader's fact, step by step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pandas as pd
import streamlit as st

from dashboard import page_list
from dashboard.charts import overfitting as charts
from dashboard.charts.overfitting import TERMS, Arm
from dashboard.elements import chart_card, compute_button, widgets
from dashboard.parts.learn import own_fact, recorded_france
from dashboard.reading.run_words import short_model
from dashboard.server import device_queue
from dashboard.visitors.visitor import Visitor
from dashboard.visitors.widget_state import remembered
from encore_core.editing.batch_report import EditProgress
from encore_core.editing.session import EditSession
from encore_core.facts import Fact

ARM = Arm("search", "search", False)
STOPPED = {"loss": "the loss fell below 0.05", "mpes": "MPES", "steps": "the maximum number of steps was reached"}


@dataclass(frozen=True)
class Search:
    """A search that was made.

    Attributes:
        model: its short name.
        trajectory: step, probability, loss, nll, kl, decay.
        stopped: why it ended.
        moved: ‖δ‖ / ‖h‖ at the end.
        clamp: the largest ‖δ‖ / ‖h‖ that is allowed.
        layer: whose output the target is.
    """

    model: str
    trajectory: pd.DataFrame
    stopped: str
    moved: float
    clamp: float
    layer: int


def show() -> None:
    with st.container(border=True, key="card_learn"):
        widgets.heading("The search, step by step", "the whole path, without early stopping; nothing is edited")
        fact = own_fact.pick()
        found = compute_button.ask(
            "learn_search",
            "Search for the target",
            fact,
            lambda visitor, tell: search(visitor, fact, tell),
            disabled=fact is None,
        )
        if found is not None:
            _shown(fact, found)
        elif recorded_france.applies("search", fact):
            recorded_france.say("Recorded without early stopping for France → Rome")
            _shown(fact, recorded_france.search(Search))


def search(visitor: Visitor, fact: Fact, tell: compute_button.Show) -> Search:
    """Search for a fact's target without MPES, so that the whole path is seen.

    Raises:
        InputError: when the fact does not fit into the model's context.
    """

    def told(at: EditProgress) -> None:
        tell(f"Step {at.step} · loss {at.loss:.3f}", at.step / visitor.session.settings.steps)

    with device_queue.work(device_queue.EDIT):
        return searched(visitor.session, fact, told)


def searched(session: EditSession, fact: Fact, told: Callable[[EditProgress], None]) -> Search:
    """The same on a session's model."""
    [target] = session.find_targets([fact], mpes=False, on_progress=told)
    columns = {name: getattr(target, name) for name in TERMS}
    return Search(
        short_model(session.lm.name),
        pd.DataFrame({"step": range(len(target.loss)), **columns}),
        target.stopped,
        float((target.z - target.h).norm() / target.h.norm()),
        session.settings.clamp,
        session.settings.layers[-1],
    )


def _shown(fact: Fact, found: Search) -> None:
    rows = found.trajectory
    last = int(rows["step"].max())
    # Another search, be it the recorded one before, is shown from its end.
    which = fact, last, float(rows["loss"].iloc[-1])
    if st.session_state.get("learn_search_of") != which or not 0 <= remembered("learn_search_step", last) <= last:
        st.session_state["learn_search_of"], st.session_state["learn_search_step"] = which, last
    if last:
        st.slider("Step of the search", 0, last, key="learn_search_step")
    at = rows.iloc[st.session_state["learn_search_step"]]
    widgets.tiles([(title, f"{at[name]:.3g}", f"after step {int(at['step'])}", "") for name, title in TERMS.items()])
    asked = f"{fact.text} → {fact.target_new}"
    chart_card.show(
        partial(charts.steps, rows.assign(arm=ARM.key), [ARM]),
        key="learn search",
        heading=asked if len(asked) <= 70 else asked[:69] + "…",
        aside=f"{found.model}, state after layer {found.layer}",
        alt="Probability of the new answer, loss and its terms by step; the figures of a step are above the chart.",
        frame=rows,
        revision=asked,
    )
    st.caption(
        f"It ended after {last} step{'s' * (last != 1)}: {STOPPED[found.stopped]}. The target z differs from h by "
        f"{100 * found.moved:.0f} % of ‖h‖; {100 * found.clamp:.0f} % are allowed. Loss = −log p + KL term + "
        "weight decay."
    )
    st.page_link(page_list.script("overfitting"), label="The same with and without MPES", icon=":material/target:")
