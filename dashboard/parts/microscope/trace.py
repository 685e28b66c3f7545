"""The causal trace of the fact, which takes seconds and so waits for a button."""

from __future__ import annotations

from functools import partial

import streamlit as st

from dashboard.charts import microscope_maps as charts
from dashboard.elements import chart_card, widgets
from dashboard.parts.microscope.looked import Looked
from dashboard.reading import microscope_frames as frames
from dashboard.reading import microscope_words as words
from dashboard.reading.microscope_frames import KIND_NAMES, MOMENTS
from dashboard.visitors.messages import Message
from encore_core.measures.fact_trace import FactTrace, fact_trace
from encore_core.models.editable import EditableModel


def show(looked: Looked, moment: str) -> None:
    """Draw the view, or the button that computes it."""
    fact = looked.fact
    if fact is None:
        words_ = "A causal trace needs to know which words are the subject: pick a fact, or type one."
        widgets.notice(Message("info", words_))
        return
    what = ("trace", fact.subject_span)
    asked = False
    if not looked.has(what):
        models = "unedited and edited" if looked.is_edited else "as loaded"
        asked = st.button("Trace this fact", type="primary", key="microscope_trace")
        st.caption(f"Where is “{widgets.plain(fact.subject)}” remembered? Many forward passes, {models}.")
        if not asked:
            return
    place = st.empty()

    def read(lm: EditableModel, of: str) -> FactTrace:
        told = f"Tracing the model {of} …"
        return fact_trace(lm, fact, on_progress=lambda share: place.progress(share, text=told))

    before = looked.before(what, partial(read, of="as loaded"))
    after = looked.after(what, partial(read, of="with the edits"))
    place.empty()
    if asked:
        st.rerun()  # without the button
    _draw(looked, before, after, moment)


def _draw(looked: Looked, before: FactTrace, after: FactTrace | None, moment: str) -> None:
    cells = frames.trace_map(before, after, moment, looked.edited_layers)
    shown = before if moment == "before" or after is None else after
    answer = shown.answer.strip()
    when = MOMENTS[moment].lower() if looked.is_edited else "as loaded"
    aside = (
        "colour: change of the indirect effect, in percentage points, each model for its own answer"
        if moment == "difference"
        else f"colour: probability of “{answer}” with noise on the subject and one state restored · {when}"
    )
    chart_card.show(
        partial(
            charts.heat,
            cells,
            [KIND_NAMES[kind] for kind in shown.maps],
            scale="points" if moment == "difference" else "probability",
            columns=3,
            marked="edited layer",
        ),
        key="causal trace",
        heading="Where the fact is remembered",
        aside=aside,
        alt="Three maps by layer and token: what restoring hidden states, MLPs and attention brings back. Their "
        "values are in the CSV file.",
        frame=cells,
        revision=looked.prompt,
    )
    widgets.remark(words.trace_sentences(before, after))
    st.caption(widgets.plain(words.trace_terms(shown)))
