"""The logit lens: what the model would say after each layer, at every token of the prompt."""

from __future__ import annotations

from functools import partial

import streamlit as st

from dashboard.charts import microscope_maps as charts
from dashboard.elements import chart_card, widgets
from dashboard.parts.microscope.looked import Looked
from dashboard.reading import microscope_frames as frames
from dashboard.reading import microscope_words as words
from dashboard.reading.microscope_frames import MOMENTS, TOP
from dashboard.visitors.messages import Message
from dashboard.visitors.widget_state import KEEP, remembered
from encore_core.measures.logit_lens import LogitLens, logit_lens
from encore_core.models.editable import EditableModel

FOLLOWED = "microscope_followed"


def show(looked: Looked, moment: str) -> None:
    """Draw the view.

    Args:
        looked: what is looked at.
        moment: of `MOMENTS`.
    """

    def read(lm: EditableModel) -> LogitLens:
        return logit_lens(lm, looked.prompt, list(looked.answers.values()), join=looked.join)

    before, after = looked.before("lens", read), looked.after("lens", read)
    roles = list(looked.answers)
    alike = words.alike_sentence(before)
    if alike:
        widgets.notice(Message("info", alike))
    by_layer = frames.lens_last_token(before, after, roles, looked.edited_layers)
    chart_card.show(
        partial(charts.last_token, by_layer, looked.answers),
        key="lens by layer",
        heading="What each layer would say",
        aside="the stream read through the model's own norm and output matrix; below 0.001 % drawn at 0.001 %",
        alt="Probability of the answers after each layer, at the prompt's last token. Its values are in the CSV file.",
        frame=by_layer,
    )
    widgets.remark(words.lens_sentence(before, after))
    _map(looked, before, after, moment)


def _map(looked: Looked, before: LogitLens, after: LogitLens | None, moment: str) -> None:
    roles = list(looked.answers)
    followed = _pick_followed(looked)
    answer = TOP if followed == TOP else roles.index(followed)
    cells = frames.lens_map(before, after, answer, moment, looked.edited_layers)
    name = "the most probable word" if followed == TOP else looked.answers[followed]
    scale = ("points" if followed == TOP else "factor") if moment == "difference" else "log"
    title = f"{name} · {MOMENTS[moment].lower() if looked.is_edited else 'as loaded'}"
    left_out = f"the last {len(before.tokens)} tokens" if before.left_out else "every token of the prompt"
    aside = {
        "log": "colour: probability; in the cells: what is most probable",
        "factor": "colour: how many times as probable; in the cells: words that changed",
        "points": "colour: points of probability; in the cells: words that changed",
    }[scale]
    chart_card.show(
        partial(charts.heat, cells, [title], scale=scale, marked="edited layer"),
        key="lens map",
        heading=f"By layer and token: {left_out}",
        aside=aside,
        alt=f"A map of {name} by layer and token, edited layers marked. Its values are in the CSV file.",
        frame=cells,
        revision=f"{looked.prompt} {followed}",
    )
    widgets.remark(words.lens_map_sentence(before, after))


def _pick_followed(looked: Looked) -> str:
    """Which answer's probability the map shows."""
    names = looked.answers | {TOP: "most probable word"}
    if remembered(FOLLOWED, "new") not in names:
        st.session_state[FOLLOWED] = "new"
    st.segmented_control(
        "Probability of", list(names), key=FOLLOWED, required=True,
        format_func=lambda role: widgets.plain(names[role]), **KEEP,
    )  # fmt: skip
    return st.session_state[FOLLOWED]
