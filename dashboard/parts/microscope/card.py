"""The card "Look inside": which view, and which moment. What is not in sight is not computed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import streamlit as st

from dashboard.elements import widgets
from dashboard.parts.microscope import lens, moved, strength, tokens, trace
from dashboard.parts.microscope.looked import Looked
from dashboard.reading.microscope_frames import MOMENTS
from dashboard.server import limits
from dashboard.visitors.messages import Message
from dashboard.visitors.widget_state import KEEP, remembered
from encore_core.errors import InputError

log = logging.getLogger(__name__)

VIEW, MOMENT = "microscope_view", "microscope_moment"
VIEWS: dict[str, tuple[str, Callable[[Looked, str], None], bool]] = {
    "lens": ("Logit lens", lens.show, True),
    "trace": ("Causal trace", trace.show, True),
    "tokens": ("Tokens", tokens.show, False),
    "moved": ("What moved the answer", moved.show, False),
    "strength": ("Strength", strength.show, False),
}
"""In links → its name, what draws it, and whether it has a before, an after and a difference."""


def restore(asked: Mapping[str, Sequence[str]]) -> None:
    """Set the card's controls to what a link asks for, or to what is usual."""
    for name, key, known, usual in (("inside", VIEW, VIEWS, "lens"), ("moment", MOMENT, MOMENTS, "after")):
        first = next(iter(asked.get(name, ())), None)
        st.session_state[key] = first if first in known else usual


def view() -> dict[str, str]:
    """The query of a link to the card as it is; empty where it has not been touched."""
    said = {"inside": st.session_state.get(VIEW, "lens"), "moment": st.session_state.get(MOMENT, "after")}
    return {name: text for name, text in said.items() if text not in ("lens", "after")}


def show(looked: Looked) -> None:
    """Draw the card."""
    with st.container(border=True, key="card_microscope"):
        n = looked.session.n_edits
        edited = "before and after edits that were all taken back" if looked.is_edited else \
            "as loaded, nothing edited yet"  # fmt: skip
        edited = f"before and after {n:,} edit{'s' * (n != 1)}" if n else edited
        widgets.heading("Look inside", edited)
        remembered(VIEW, "lens")
        st.segmented_control(
            "View", list(VIEWS), key=VIEW, format_func=lambda name: VIEWS[name][0], required=True,
            label_visibility="collapsed", **KEEP,
        )  # fmt: skip
        _, draw, has_moments = VIEWS[st.session_state[VIEW]]
        moment = _pick_moment() if has_moments and looked.is_edited else "before"
        try:
            limits.check_text("The prompt", looked.prompt)
            draw(looked, moment)
        except InputError as error:
            widgets.problem(error)
        except Exception:
            log.exception("the microscope failed")
            words = (
                "This view failed inside the program; your edits are as they were. The reason is in the server's log."
            )
            widgets.notice(Message("error", words))


def _pick_moment() -> str:
    remembered(MOMENT, "after")
    st.segmented_control(
        "Moment", list(MOMENTS), key=MOMENT, format_func=MOMENTS.get, required=True, label_visibility="collapsed",
        **KEEP,
    )  # fmt: skip
    return st.session_state[MOMENT]
