"""A lesson that is being given: which one, at which step, since when. Shown in the sidebar of every page.

Steps open pages of the same browser session, so the edits that an earlier step made are still there.
"""

from __future__ import annotations

import time

import streamlit as st

from dashboard import links
from dashboard.elements import widgets
from dashboard.reading.run_words import duration
from dashboard.talk import lessons, pointing
from dashboard.talk.lessons import Lesson, LessonStep
from dashboard.visitors import models

OWN, PLAYED, PLACE, STARTED = "lessons_own", "lesson_played", "lesson_place", "lesson_started"
CLOCK_SECONDS = 10.0
ADDRESSED = "give"
"""The parameter of every address: the lesson's key and the step's number, from 1."""


@st.cache_resource(show_spinner=False, max_entries=1)
def _bundled() -> dict[str, Lesson]:
    return lessons.bundled()


def known() -> dict[str, Lesson]:
    """The lessons that come with the program, and the visitor's own ones, by key.

    Raises:
        InputError: when one that comes with the program cannot be read.
    """
    return _bundled() | st.session_state.get(OWN, {})


def begin(key: str, place: int = 0) -> None:
    """Start a lesson at a step, the clock, and the loading of the model, so that the class need not wait."""
    st.session_state[PLAYED], st.session_state[STARTED] = key, time.time()
    models.usual_model()
    go(place)


def go(place: int) -> None:
    """Go to a step of the lesson that is being given."""
    st.session_state[PLACE] = place


def end() -> None:
    """End the lesson."""
    for key in (PLAYED, PLACE, STARTED):
        st.session_state.pop(key, None)


def played() -> tuple[str, Lesson, int] | None:
    """The lesson that is being given: key, lesson, and place of the step from 0; None when there is none."""
    key = st.session_state.get(PLAYED)
    lesson = known().get(key) if key else None
    if lesson is None:
        return None
    return key, lesson, min(max(0, st.session_state.get(PLACE, 0)), len(lesson.steps) - 1)


def read_address() -> None:
    """Go on with the lesson that the address names, unless we wrote it there; invalid values are ignored.

    So a reloaded page is still in the lesson. Its edits are gone: they live only as long as the page.
    """
    asked = st.query_params.get(ADDRESSED, "")
    key, _, step = asked.rpartition(".")
    if asked == links.said_everywhere(ADDRESSED) or key not in _bundled() or not (step.isdecimal() and len(step) < 4):
        return
    begin(key, int(step) - 1)


def addressed() -> dict[str, str]:
    """What every address says of the lesson; nothing of a visitor's own plan, which exists in this session alone."""
    now = played()
    return {} if now is None or now[0] in st.session_state.get(OWN, {}) else {ADDRESSED: f"{now[0]}.{now[2] + 1}"}


def open_step(step: LessonStep) -> None:
    """Go to the page of a step, in its state."""
    links.go(step.view.file, step.view.query)


def point(page: str) -> None:
    """Open the page at the card that the step of the lesson is about, if it is the step's page.

    Args:
        page: its name in addresses.
    """
    now = played()
    if now is None:
        return
    key, lesson, place = now
    step = lesson.steps[place]
    if page == ("" if step.view.page == "start" else step.view.page):
        pointing.point_at(step.at, f"{key} {place}")


def pace(lesson: Lesson, place: int, seconds: float) -> str:
    """The time so far, and how it compares with the plan unless it is on time.

    Args:
        lesson: the plan.
        place: of the step, from 0.
        seconds: since the start.
    """
    starts = lesson.starts()
    low, high = 60 * starts[place], 60 * starts[place + 1]
    if seconds > high:
        return f"{duration(seconds)}, {duration(seconds - high)} behind the plan"
    if seconds < low:
        return f"{duration(seconds)}, {duration(low - seconds)} ahead of the plan"
    return duration(seconds)


@st.fragment(run_every=CLOCK_SECONDS)
def clock() -> None:
    """The time so far against the plan."""
    now = played()
    if now is None or STARTED not in st.session_state:
        return
    _, lesson, place = now
    words = pace(lesson, place, time.time() - st.session_state[STARTED])
    st.html(widgets.rich('<p class="es-clock">{words}</p>', words=words))


def bar() -> None:
    """In the sidebar: the step of the lesson, and buttons to move on; nothing when no lesson is given."""
    now = played()
    if now is None:
        return
    _, lesson, place = now
    step, n_steps = lesson.steps[place], len(lesson.steps)
    with st.container(border=True, key="lesson_bar"):
        head = '<p class="es-lesson"><small>Lesson · step {number} of {n}</small>{title}</p>'
        st.html(widgets.rich(head, number=place + 1, n=n_steps, title=step.title))
        clock()
        on = st.button("Next step", key="lesson_on", width="stretch", disabled=place + 1 == n_steps, type="primary")
        back = st.button("Previous step", key="lesson_back", width="stretch", disabled=place == 0)
        with st.expander("Notes", icon=":material/notes:"):
            notes(step)
        st.button("End the lesson", key="lesson_end", on_click=end, width="stretch")
    if back or on:
        go(place + (1 if on else -1))
        open_step(lesson.steps[place + (1 if on else -1)])


def notes(step: LessonStep) -> None:
    """What to say, to ask and to press, and what to look for."""
    rows = (("Say", step.say), ("Ask", step.ask), ("Press", ", then ".join(step.press)), ("Look for", step.watch))
    st.html(
        '<dl class="es-notes">'
        + "".join(
            widgets.rich("<dt>{name}</dt><dd dir=auto>{text}</dd>", name=n, text=text) for n, text in rows if text
        )
        + "</dl>"
    )
