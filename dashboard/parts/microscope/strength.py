"""The strength of the edits: W₀ + β Δ."""

from __future__ import annotations

from functools import partial

import streamlit as st

from dashboard.charts import microscope_bars as charts
from dashboard.charts.labels import percent
from dashboard.elements import chart_card, widgets
from dashboard.parts.microscope.looked import Looked
from dashboard.reading import microscope_frames as frames
from dashboard.reading import microscope_words as words
from dashboard.visitors.messages import Message
from dashboard.visitors.widget_state import KEEP, remembered
from encore_core.measures.strength import BETAS, LARGEST, Strength, strengths

BETA = "microscope_beta"


def show(looked: Looked, moment: str) -> None:
    """Draw the view; the moments are on its axis."""
    fact = looked.fact
    if fact is None or not looked.is_edited:
        lacking = "make an edit" if fact is not None else "pick a fact"
        widgets.notice(Message("info", f"The strength of an edit can be changed once there is one: {lacking} first."))
        return

    def read() -> Strength:
        place = st.empty()

        def tell(share: float) -> None:
            place.progress(share, text="Trying strengths …")

        try:
            with looked.session.pristine() as lm:
                return strengths(lm, looked.session.matrices(), fact, on_progress=tell)
        finally:
            place.empty()

    found = looked.of_both(("strength", fact), read)
    remembered(BETA, 1.0)
    st.slider("Strength β of the edits", 0.0, LARGEST, step=BETAS[1], key=BETA, format="%g", **KEEP)
    at = st.session_state[BETA]
    _tiles(found, at)
    rows = frames.strength_rows(found)
    n_edits = looked.session.n_edits
    chart_card.show(
        partial(charts.strength, rows, at),
        key="strength",
        heading="The answers by strength",
        aside=f"W₀ + β Δ: 0 is the model as loaded, 1 the model with {n_edits:,} edit{'s' * (n_edits != 1)}",
        alt="Probability of both answers by strength, for the prompt, its paraphrases and its neighbours. Its figures "
        "are in the CSV file.",
        frame=rows,
    )
    st.caption("A pair of lines per prompt, each prompt in a stroke of its own: point at a line to read which.")
    widgets.remark(words.strength_sentence(found))


def _tiles(found: Strength, at: float) -> None:
    """The figures at the strength of the slider."""
    step = min(range(len(found.betas)), key=lambda i: abs(found.betas[i] - at))
    path = found.rewrite
    rival = f"{path.true} {percent(path.true_answers[step].probability)}, " if path.true_answers else ""
    items = [(path.new, percent(path.new_answers[step].probability), f"{rival}β = {found.betas[step]:g}", "")]
    for role, name, wanted in (("paraphrase", "Paraphrases", True), ("neighbour", "Neighbours", False)):
        paths = found.of(role)
        if paths:
            right = sum(path.ahead(step) == wanted for path in paths)
            items.append((name, f"{right} of {len(paths)}", "new answer ahead" if wanted else "own answer ahead", ""))
    widgets.tiles(items)
