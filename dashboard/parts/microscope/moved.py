"""Which sublayer moved the logit of an answer."""

from __future__ import annotations

from functools import partial

import streamlit as st

from dashboard.charts import microscope_bars as charts
from dashboard.charts.labels import label
from dashboard.elements import chart_card, widgets
from dashboard.parts.microscope.looked import Looked
from dashboard.reading import microscope_frames as frames
from dashboard.reading import microscope_words as words
from dashboard.reading.microscope_frames import NEW_MINUS_TRUE
from dashboard.visitors.messages import Message
from dashboard.visitors.widget_state import KEEP, remembered
from encore_core.measures.direct_effects import Reading, moved, read_directly
from encore_core.models.editable import EditableModel

OF = "microscope_logit"


def show(looked: Looked, moment: str) -> None:
    """Draw the view; it is a difference."""
    if not looked.is_edited:
        widgets.notice(Message("info", "Nothing has moved yet: make an edit, and see here which sublayers moved it."))
        return

    def read(lm: EditableModel) -> Reading:
        return read_directly(lm, looked.prompt, list(looked.answers.values()), join=looked.join)

    found = moved(looked.before("direct", read), looked.after("direct", read))
    of = _pick(looked)
    roles = list(looked.answers)
    rows = frames.effect_rows(found, of, roles, looked.edited_layers)
    names = dict(zip(roles, found.answer_tokens, strict=True))
    told = " minus ".join(names[role].strip() for role in (roles if of == NEW_MINUS_TRUE else [of]))
    chart_card.show(
        partial(charts.moved, rows, f"<b>{label(told, 30)}</b>"),
        key="direct effects",
        heading="What moved the answer",
        aside="direct effect of each attention and MLP on the logit of the first token, after minus before",
        alt=f"A bar per sublayer: its direct effect on the logit of {told}. Its values are in the CSV file.",
        frame=rows,
        revision=of,
    )
    lead = f"the lead of “{names['new'].strip()}” over “{names['true'].strip()}”" if of == NEW_MINUS_TRUE else ""
    subject = lead or f"the logit of “{told}”"
    widgets.remark(words.moved_sentence(rows, subject, looked.edited_layers))


def _pick(looked: Looked) -> str:
    """Whose logit."""
    if "true" not in looked.answers:
        return "new"
    names = {NEW_MINUS_TRUE: "new minus true"} | looked.answers
    if remembered(OF, NEW_MINUS_TRUE) not in names:
        st.session_state[OF] = NEW_MINUS_TRUE
    st.segmented_control(
        "Logit of", list(names), key=OF, required=True, format_func=lambda of: widgets.plain(names[of]), **KEEP
    )
    return st.session_state[OF]
