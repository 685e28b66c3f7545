"""A guided tour of the app, in a card beside what it speaks of; it can be left and resumed.

It is written like a lesson plan, in `assets/tour.toml`. Every address holds the current step, so the tour goes on after
a reload, and a link to it can be kept.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import streamlit as st

from dashboard import links
from dashboard.elements import theme, widgets
from dashboard.talk import lesson_play, lessons, pointing
from dashboard.talk.lessons import Lesson
from encore_core.resources import ASSETS

FILE = ASSETS / "tour.toml"
ADDRESSED = "tour"
"""The parameter of every address: the step's number, from 1."""

_ON, _PLACE = "touring", "tour_place"


@cache
def plan() -> Lesson:
    """The steps.

    Raises:
        InputError: when the file cannot be read.
    """
    return lessons.read(FILE.read_bytes(), FILE.name)


def place() -> int | None:
    """The current step, from 0; None when the visitor is not on the tour."""
    return st.session_state[_PLACE] if st.session_state.get(_ON) else None


def read_address() -> None:
    """Take the tour at the step that the address asks for, unless we wrote it there."""
    asked = st.query_params.get(ADDRESSED, "")
    if asked == links.said_everywhere(ADDRESSED) or not (asked.isdecimal() and len(asked) < 4):
        return
    st.session_state[_ON], st.session_state[_PLACE] = True, min(max(1, int(asked)), len(plan().steps)) - 1


def addressed() -> dict[str, str]:
    """What every address says of the tour."""
    here = place()
    return {} if here is None else {ADDRESSED: str(here + 1)}


def offer() -> None:
    """The button that begins the tour, or goes on with it; nothing during the tour."""
    if place() is not None:
        return
    left_at = st.session_state.get(_PLACE, 0)
    words = f"Go on with the tour: step {left_at + 1} of {len(plan().steps)}" if left_at else "Take the tour"
    if st.button(words, key="tour_begin", icon=":material/tour:"):
        open_at(left_at)


def leave() -> None:
    """Leave the tour. The step is kept, except for the last one, after which the tour begins again."""
    st.session_state[_ON] = False
    if st.session_state[_PLACE] + 1 == len(plan().steps):
        st.session_state[_PLACE] = 0


def open_at(to: int) -> None:
    """Go to a step, on its page."""
    st.session_state[_ON], st.session_state[_PLACE] = True, to
    lesson_play.open_step(plan().steps[to])


def card(page: Any) -> None:
    """What to see on the page, and buttons to move; nothing when the visitor is not on the tour.

    Args:
        page: the one that is shown.
    """
    here = place()
    if here is None:
        return
    step, n_steps = plan().steps[here], len(plan().steps)
    theme.add("tour")
    with st.container(border=True, key="tour"):
        widgets.heading(f"Tour · {step.title}", f"step {here + 1} of {n_steps}")
        seen = f"You should see: {step.watch}"
        st.html(widgets.rich('<p class="es-tour">{say}</p><p class="es-tour"><span>{seen}</span></p>', say=step.say,
                             seen=seen))  # fmt: skip
        with st.container(horizontal=True, vertical_alignment="center"):
            back = st.button("Back", key="tour_back", disabled=here == 0)
            on = st.button("Next", key="tour_on", type="primary", disabled=here + 1 == n_steps)
            is_elsewhere = page.url_path != ("" if step.view.page == "start" else step.view.page)
            shown = is_elsewhere and st.button("Back to the tour's page", key="tour_page")
            st.button("End the tour" if here + 1 == n_steps else "Leave the tour", key="tour_leave", on_click=leave)
    if not is_elsewhere:
        pointing.point_at(step.at, f"tour {here}", framed=True)
    if back or on or shown:
        open_at(here + on - back)
