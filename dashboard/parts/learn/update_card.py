"""Step 3: the last edit of the visitor taken apart, with its actual shapes and norms."""

from __future__ import annotations

from functools import partial

import pandas as pd
import streamlit as st

from dashboard.charts import learn as charts
from dashboard.elements import chart_card, compute_button, widgets
from dashboard.parts.learn import own_fact, recorded_france
from dashboard.parts.learn.anatomy import Anatomy, take_apart
from dashboard.reading.run_words import duration
from dashboard.visitors import browser_session
from dashboard.visitors.visitor import Visitor
from encore_core.errors import InputError
from encore_core.facts import Fact


def show() -> None:
    with st.container(border=True, key="card_learn"):
        history = browser_session.current().session.history if "visitor" in st.session_state else ()
        widgets.heading("An edit, taken apart", "the last batch on your model" if history else "layer by layer")
        # The result is about the visitor's last batch, so the number of batches is enough to know it by.
        if history:
            found = compute_button.ask(
                "learn_anatomy", "Take the last edit apart", len(history), lambda visitor, _: apart(visitor)
            )
        else:
            fact = own_fact.pick()
            found = compute_button.ask(
                "learn_anatomy",
                "Make this edit and take it apart",
                1,
                lambda visitor, tell: made(visitor, fact, tell),
                disabled=fact is None,
            )
            st.caption("This edit is put on your model, as if made on the Edit page, where it can be undone.")
        if found is not None:
            _shown(found, "on your model")
        elif not history and recorded_france.applies("anatomy", fact):
            recorded_france.say()
            _shown(recorded_france.anatomy(), "recorded")


def made(visitor: Visitor, fact: Fact, tell: compute_button.Show) -> Anatomy:
    """Make an edit on the visitor's model, unless there is one (made in another tab), and take the last one apart.

    Raises:
        InputError: when the fact cannot be edited.
    """
    if not visitor.session.history:
        visitor.begin([fact], 1, "refuse")
        visitor.work(tell)
        if visitor.message is not None and visitor.message.kind == "error":
            raise InputError(visitor.message.text)
    return apart(visitor)


def apart(visitor: Visitor) -> Anatomy:
    """The last batch of the visitor, taken apart.

    Raises:
        InputError: when it has been undone meanwhile, or its method is no row of the update rule.
    """
    if not visitor.session.history:
        raise InputError("There is no edit on the model any more; make one first.")
    return take_apart(visitor.session)


def _shown(found: Anatomy, where: str) -> None:
    n_facts = len(found.facts)
    if n_facts == 1:
        widgets.sentence(found.facts[0])
    first, last = found.layers[0], found.layers[-1]
    widgets.tiles(
        [
            ("K, keys", shape(last.K), "one column per fact", ""),
            ("R, residuals", shape(last.R), "what W K should gain", ""),
            ("S + KᵀPK", shape(last.system), "all that has to be solved", ""),
            ("Δ, added to W", shape(last.delta), f"rank {n_facts} at most", ""),
        ]
    )
    frame = pd.DataFrame(
        [(place, f"layer {one.layer}", one.missing) for place, one in enumerate(found.layers)]
        + [(len(found.layers), charts.AFTER, found.left)],
        columns=["place", "name", "missing"],
    )
    chart_card.show(
        partial(charts.missing, frame),
        key="learn missing",
        heading="Distance to the target, layer by layer",
        aside=f"batch {found.number} {where}, done in {duration(sum(found.seconds.values()))}",
        alt=f"Distance to the target before each edited layer: {first.missing:.3g} at first, {found.left:.3g} at the "
        "end; the values are in the table below.",
        frame=frame,
    )
    rows = [
        (
            f"layer {one.layer}",
            f"{one.key_norm:.2f}",
            f"{one.missing:.2f}",
            f"{one.residual_norm:.2f}",
            interval(*one.system_range),
            f"{one.delta_norm:.3f}",
            f"{100 * one.delta_norm / one.norm_before:.2f} %",
            f"{one.norm_before:.3f}",
            f"{100 * (one.norm_after / one.norm_before - 1):+.4f} %",
        )
        for one in found.layers
    ]
    columns = [
        ("Edited layer", "name"),
        ("‖K‖", "right"),
        ("‖z − h‖", "right"),
        ("‖R‖", "right"),
        ("Eigenvalues of S + KᵀPK", "about"),
        ("‖Δ‖", "right"),
        ("‖Δ‖ / ‖W‖", "right"),
        ("‖W‖", "right"),
        ("‖W‖ grows by", "right"),
    ]
    widgets.table(columns, rows, "Norms of the edit, per edited layer")
    worst = max(one.error for one in found.layers)
    st.caption(
        f"Recomputed on the model as it was before this batch: R (S + KᵀPK)⁻¹ KᵀP equals the Δ that was applied, with "
        f"a relative error of {worst:.0e}. ‖z − h‖: mean over the facts, after the changes in the layers below."
    )


def shape(sizes: tuple[int, int]) -> str:
    return " × ".join(f"{size:,}" for size in sizes)


def interval(low: float, high: float) -> str:
    return f"{low:.3f}" if f"{low:.3f}" == f"{high:.3f}" else f"{low:.3f} to {high:.3f}"
